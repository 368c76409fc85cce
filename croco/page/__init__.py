"""What croco.report's page is made of: numbers (findings, distributions), words, charts, and the texts it shows."""
