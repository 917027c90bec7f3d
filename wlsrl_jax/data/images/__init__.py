"""Image files: which there are, decoding, and the way to the model's pixels."""

import cv2

cv2.setNumThreads(0)  # whoever reads many images has threads of their own
