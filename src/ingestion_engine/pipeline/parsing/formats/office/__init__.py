"""Word, PowerPoint and Excel files to text."""
