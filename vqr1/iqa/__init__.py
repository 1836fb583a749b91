"""The mathematics of image quality assessment as pure functions."""
