"""python website: writes the pages and the settings of the site into build/, for mkdocs to
build."""

import pages
import writing

writing.write(pages.ROOT / "build")
