"""PDF files to text, with PDFium."""
