"""ONNX recognisers as differentiable PyTorch modules, operator by operator."""

from __future__ import annotations

from .convert import convert_onnx, load_onnx_encoder
from .graph import Graph, Node, UnsupportedGraph
from .network import GraphNetwork

__all__ = [
    "Graph",
    "GraphNetwork",
    "Node",
    "UnsupportedGraph",
    "convert_onnx",
    "load_onnx_encoder",
]
