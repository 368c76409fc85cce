"""A real object store on loopback: OpenStack Swift with its S3 interface, which checks signatures.

`python swift_server.py FOLDER SECRET`, in the environment of images/objectstore.lock, serves until its parent ends. The
first line it prints is its port. Account, container, object and proxy server run in one process, over one device.
"""

import ctypes
import signal
import sys
from pathlib import Path

import eventlet

eventlet.monkey_patch()

from eventlet import wsgi  # noqa: E402 - what follows must see the patched modules
from swift.common import utils  # noqa: E402
from swift.common.http_protocol import SwiftHttpProtocol  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

SERVERS = ("account", "container", "object")
SHARED = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
conn_timeout = 30
node_timeout = 60
container_update_timeout = 60
"""
"""Patient: after a second Swift would answer a put before listings show it, which S3 does not."""
STORAGE = SHARED + "[app:main]\nuse = egg:swift#{server}\n"
PROXY = (
    SHARED
    + """
[pipeline:main]
pipeline = catch_errors s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_croco_owner = {secret} .admin
user_croco_guest = {secret}
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
)


def serve(folder: Path, secret: str) -> None:
    """Serve from `folder` to `croco:owner`, who may do everything, and `croco:guest`, who may do nothing."""
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = test\n[storage-policy:0]\nname = one\ndefault = yes\n"
    )
    utils.set_swift_dir(str(folder))
    sockets = {server: eventlet.listen(("127.0.0.1", 0)) for server in (*SERVERS, "proxy")}
    for server in SERVERS:
        ring = RingBuilder(0, 1, 0)
        device = {"region": 1, "zone": 1, "weight": 1, "ip": "127.0.0.1", "device": "disk"}
        ring.add_dev({**device, "port": sockets[server].getsockname()[1]})
        ring.rebalance()
        ring.get_ring().save(str(folder / f"{server}.ring.gz"))
    for server, socket in sockets.items():
        path = folder / f"{server}.conf"
        path.write_text((PROXY if server == "proxy" else STORAGE).format(folder=folder, server=server, secret=secret))
        eventlet.spawn(
            wsgi.server,
            socket,
            loadapp(str(path)),
            utils.NullLogger(),
            protocol=SwiftHttpProtocol,
            capitalize_response_headers=False,
        )
    print(sockets["proxy"].getsockname()[1], flush=True)
    while True:
        eventlet.sleep(3600)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    serve(Path(sys.argv[1]), sys.argv[2])
