"""A stand-in for the ``tensorrt`` module: exactly the names that we use, each checked against the real bindings.

It builds "engines" that compute: a plan holds the graph that the parser was given, and a context runs it with ONNX's
reference evaluator on the memory at the addresses it was told, plugins by their PyTorch references. What is asked of it
that it does not know raises AttributeError or TypeError, as the real thing would.
"""

from .build import (
    Builder,
    IBuilderConfig,
    IHostMemory,
    INetworkDefinition,
    IOptimizationProfile,
    ITimingCache,
    OnnxParser,
    ParserError,
    registered,
)
from .engine import (
    EngineInspector,
    ICudaEngine,
    IExecutionContext,
    Runtime,
)
from .names import (
    BuilderFlag,
    DataType,
    ExecutionContextAllocationStrategy,
    HardwareCompatibilityLevel,
    ILogger,
    IProgressMonitor,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    ProfilingVerbosity,
    TensorIOMode,
)

__all__ = [
    "Builder",
    "BuilderFlag",
    "DataType",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "HardwareCompatibilityLevel",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProgressMonitor",
    "ITimingCache",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "OnnxParserFlag",
    "ParserError",
    "ProfilingVerbosity",
    "Runtime",
    "TensorIOMode",
    "registered",
]
