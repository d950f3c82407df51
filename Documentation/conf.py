# SPDX-License-Identifier: GPL-2.0
project = "coda_rs"
author = "The coda_rs maintainers"
html_theme = "alabaster"
