"""Frame: a page -> the same for Kubeflow's UI, which shows it in a sandboxed frame that has its text and no address."""


def framed(page: str) -> str:
    """`page` with links that stay within it: the frame would take `#summary` for a place in the UI, and show that
    instead. Outside of a frame such a page has dead links.
    """
    return page.replace("<head>\n", '<head>\n<base href="about:srcdoc">\n', 1)
