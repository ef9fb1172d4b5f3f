"""Excel workbooks: sheets, number formats, formulas, drawings."""
