"""A localization score for somebody else's detector, known as an ONNX file or by its results alone."""
