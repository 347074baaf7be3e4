"""Editors, one a file; each carries out an instruction on a picture, see `brushwork.data.tasks.Editor`."""
