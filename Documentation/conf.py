# SPDX-License-Identifier: GPL-2.0
"""How Sphinx makes web pages of this folder: "make docs"."""

import pathlib
import re

kbuild = pathlib.Path(__file__).parent.parent / "Kbuild"

project = "coda_rs"
author = "the coda_rs maintainers"
release = re.search(r"^CODA_RS_VERSION := (\S+)", kbuild.read_text(), re.MULTILINE)[1]
version = release

# What stands after "::" is messages, tables and commands.
highlight_language = "none"

html_theme = "alabaster"
html_theme_options = {
    "description": "Coda's client in the Linux kernel, in Rust",
    "fixed_sidebar": True,
    "page_width": "80em",
    "body_max_width": "60em",
}
html_copy_source = False
html_show_sourcelink = False
