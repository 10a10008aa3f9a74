"""Which operations of a traced function TensorFlow would not run on a GPU."""

import tensorflow as tf
from tensorflow.python.framework import kernels

# They tell a tensor's shape, which the host knows without waiting for its values.
_OF_SHAPES = {"Shape", "ShapeN", "Size", "Rank"}
_CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def off_the_gpu(function: tf.types.experimental.ConcreteFunction, start: tf.Tensor) -> list[str]:
    """Lists operations on a graph's tensor, or on what is made of it, that are not done on a GPU.

    Each has its reason: it has no GPU kernel for its types; its kernel takes or gives such values,
    but for scalars, in host memory; or XLA must compile it for a GPU and cannot.
    """
    # XLA's kernels are known from the first compilation on.
    tf.function(tf.identity, jit_compile=True)(tf.zeros([]))
    complaints = set()
    _follow(function.graph, {start.ref()}, False, complaints)
    return sorted(complaints)


def _follow(graph, followed, compiled, complaints):
    """Adds complaints; returns the graph's outputs that are made of the tensors in `followed`."""
    for op in graph.get_operations():  # in the order of their making
        reached = [value.ref() in followed for value in op.inputs]
        if not any(reached) or op.type in _OF_SHAPES:
            continue
        if op.type in _CALLS:
            name = op.get_attr("f").name
            body = graph._get_function(name).cached_definition
            inner = op.graph._get_function(name).graph
            must = compiled or body.attr["_XlaMustCompile"].b
            inputs = {x.ref() for x, r in zip(inner.inputs, reached, strict=True) if r}
            outputs = _follow(inner, inputs, must, complaints)
            followed.update(op.outputs[n].ref() for n in outputs)
            continue
        complaint = _complaint(op, reached, "XLA_GPU_JIT" if compiled else "GPU")
        if complaint:
            complaints.add(f"{op.type}: {complaint}")
        followed.update(value.ref() for value in op.outputs)
    return [n for n, value in enumerate(graph.outputs) if value.ref() in followed]


def _complaint(op, reached, device):
    registered = kernels.get_registered_kernels_for_op(op.type).kernel
    fitting = [k for k in registered if k.device_type == device and _fits(k, op)]
    if not fitting:  # DEFAULT stands in where a device has no kernel of its own.
        fitting = [k for k in registered if k.device_type == "DEFAULT" and _fits(k, op)]
    if not fitting:
        types = ", ".join(value.dtype.name for value in [*op.inputs, *op.outputs])
        return f"no {device} kernel for {types}"
    inputs = [value if r else None for value, r in zip(op.inputs, reached, strict=True)]
    named = [
        *zip(_names(op, op.op_def.input_arg), inputs, strict=True),
        *zip(_names(op, op.op_def.output_arg), op.outputs, strict=True),
    ]
    # A scalar, as the loss or whether a gradient is finite, holds nothing up.
    of_values = {name for name, value in named if value is not None and value.shape.rank != 0}
    hosted = [of_values & set(kernel.host_memory_arg) for kernel in fitting]
    return f"{', '.join(sorted(min(hosted, key=len)))} in host memory" if all(hosted) else None


def _fits(kernel, op):
    return all(
        op.node_def.attr[c.name].type in c.allowed_values.list.type for c in kernel.constraint
    )


def _names(op, arguments):
    """The argument's name for each of an operation's inputs or outputs."""
    for argument in arguments:
        count = 1
        if argument.number_attr:
            count = op.get_attr(argument.number_attr)
        elif argument.type_list_attr:
            count = len(op.get_attr(argument.type_list_attr))
        yield from [argument.name] * count
