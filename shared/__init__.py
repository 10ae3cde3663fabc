"""The course's library: a window over the chapter folders.

Each chapter's notebook exports one module into the chapter's own folder. This package puts those folders on its search
path, so that ``from shared.traditional_ml import LinearRegression`` loads ``00_Traditional_ML/traditional_ml.py``: one
file a module, in the folder of the chapter that teaches it. An installed wheel holds the modules in this folder itself.

The environment variable COURSE_CHAPTER, the name of a chapter's folder, hides the modules of later chapters, so that the
validation of a notebook proves that it needs none of them.
"""

import os
from pathlib import Path

from shared.memory import keep_freed_memory

__version__ = "0.1.0"

CHAPTER_FOLDERS = sorted(Path(__file__).resolve().parent.parent.glob("[0-9][0-9]_*/"))
_chapter = os.environ.get("COURSE_CHAPTER")
__path__.extend(str(folder) for folder in CHAPTER_FOLDERS if not _chapter or folder.name <= _chapter)

keep_freed_memory()
