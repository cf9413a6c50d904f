# SPDX-License-Identifier: Apache-2.0
"""The test suite; a package, so that its folders may share names with the folders they test."""
