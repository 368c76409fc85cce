"""What croco.report's page is made of: numbers (findings and what it collects), words (summary), charts, and texts."""
