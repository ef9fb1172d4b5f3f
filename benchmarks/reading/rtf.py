"""Compare the text of Rich Text files with that of striprtf.

python benchmarks/reading/rtf.py FOLDER ... [--before SRC] [--all]

striprtf writes the addresses of links into the text, which is switched off. It drops notes, comments, headers, footers
and what follows the first document of a file, which therefore is doubled or added; HTML in Rich Text is compared too.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from reading.whole_texts import compare_files

_BENCHMARKS = str(Path(__file__).parents[1])

STRIPRTF = f"""
import re, sys
sys.path.append({_BENCHMARKS!r})
from reading.readings import serve
from striprtf import striprtf

striprtf.HYPERLINKS = re.compile("((?!))()()")

def read(path):
    return {{"text": striprtf.rtf_to_text(open(path, "rb").read().decode("latin-1"), errors="replace")}}

serve(read)
"""

if __name__ == "__main__":
    compare_files(__doc__, (".rtf",), STRIPRTF)
