# SPDX-License-Identifier: Apache-2.0
"""The Developer API: batch jobs, files, models, and the synchronous calls beside them."""
