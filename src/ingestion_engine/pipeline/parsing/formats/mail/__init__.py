"""E-mails, saved pages (MHT) and mailbox files: their parts, headers, calendars and encodings."""
