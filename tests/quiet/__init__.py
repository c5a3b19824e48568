"""Whether anything leaves the machine or stays behind in the home folder."""

from __future__ import annotations
