"""The student as one ONNX file, from the log's own values to a probability, for services that run no Python."""
