"""Transformer blocks whose weights never change, computed on the CPU without what only trainable ones need.

Three things make the difference to `open_clip`'s own blocks, which stay in charge everywhere else:

- Weights are cast to the working precision once; autocast would cast frozen ones at every call.
- Products go to oneDNN, which keeps the cores busier than the BLAS behind `torch.nn.functional.linear` where few
  rows meet a large matrix, and on processors of other makes than the BLAS was written for (there more than twice
  as fast in single precision). Its operator is private to PyTorch, so the public one takes over where it is missing.
- Nothing is kept for gradients of weights, there are none. Where no gradient is asked for at all, a block writes
  over what nobody needs any more: fresh memory costs as much as some of the operations that fill it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mvfa_core.mapped import release

# score matrices of longer sequences fill the memory; the fused attention never holds them
MOST_TOKENS = 1024
# images whose score matrices stay in the processor's cache between the two products
AT_ONCE = 2


def _onednn(
    dtype: torch.dtype, then: str = "none", algorithm: str = ""
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """`x Wᵀ + b` by oneDNN on plain tensors, or None where this PyTorch or this processor lacks it.

    then: the operation applied to it, in single precision and before anything is written.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        product = lambda x, weight, bias: operator(x, weight, bias, then, [], algorithm)
        x, weight, bias = (torch.ones(*shape, dtype=dtype) for shape in ((2, 3), (4, 3), (4,)))
        return product if torch.allclose(product(x, weight, bias).float(), torch.tensor(4.0), 1e-3) else None
    # whatever a private operator of another version raises: the public one computes the same
    except Exception:
        return None


_Products = dict[torch.dtype, Callable[[Tensor, Tensor, Tensor | None], Tensor] | None]
_LINEAR: _Products = {dtype: _onednn(dtype) for dtype in (torch.float32, torch.bfloat16)}
# not in single precision, whose results are those of the two operations to the last bit
_LINEAR_GELU: _Products = {torch.bfloat16: _onednn(torch.bfloat16, "gelu", "none")}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., I), (O, I), (O,) -> (..., O); no gradient flows through it."""
    return (_found(_LINEAR, x) or F.linear)(x, weight, bias)


def _found(products: _Products, x: Tensor) -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """The one of `products` that takes `x`."""
    return products.get(x.dtype) if x.device.type == "cpu" else None


class _Copies:
    """The tensors of a frozen layer in one working precision; in the parameters' own they are the parameters."""

    def __init__(self, state: tuple, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        self.state = state
        self.weight = weight.detach().to(dtype)
        self.bias = None if bias is None else bias.detach().to(dtype)
        if self.weight.dtype != weight.dtype:
            release(weight)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def backward(self, gradient: Tensor) -> Tensor:
        return linear(gradient, self.weight.T)


class _Product(torch.autograd.Function):
    """A frozen layer with a gradient for its input alone."""

    @staticmethod
    def forward(ctx, x: Tensor, copies: _Copies) -> Tensor:
        ctx.copies = copies
        return copies.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.copies.backward(gradient.contiguous()), None


class FrozenLinear:
    """A linear layer that never learns, seen through its parameters; copies are remade when those change.

    Several threads may call it at once.

    Args:
        weight: (O, I). bias: (O,) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight, bias
        self._copies: _Copies | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(..., I) in the working precision -> (..., O)."""
        copies = self._current(x.dtype)
        if x.requires_grad and torch.is_grad_enabled():
            return _Product.apply(x, copies)
        return copies.forward(x)

    def with_gelu(self, x: Tensor) -> Tensor | None:
        """(..., I) -> GELU of what a call gives, (..., O), without a gradient; None where that is no one operation."""
        product = _found(_LINEAR_GELU, x)
        if product is None:
            return None
        copies = self._current(x.dtype)
        return product(x, copies.weight, copies.bias)

    def rest(self) -> None:
        """Let go of the copies until the next call."""
        self._copies = None

    def _current(self, dtype: torch.dtype) -> _Copies:
        tensors = [t for t in (self.weight, self.bias) if t is not None]
        state = (dtype, *((t.data_ptr(), t._version) for t in tensors))
        # a thread keeps the copies it found here whole, whatever another one puts in their place meanwhile
        copies = self._copies
        if copies is None or copies.state != state:
            copies = self._copies = _Copies(state, self.weight, self.bias, dtype)
        return copies


class FrozenBlock:
    """One of `open_clip`'s `ResidualAttentionBlock`s with frozen weights, on the CPU.

    Tokens between blocks stay in single precision, as they do under autocast; what a block adds to them is
    computed in the working precision.
    """

    def __init__(self, block: nn.Module):
        attention, mlp = block.attn, block.mlp
        self.block = block
        self.heads = attention.num_heads
        self.inner = FrozenLinear(attention.in_proj_weight, attention.in_proj_bias)
        self.outer = FrozenLinear(attention.out_proj.weight, attention.out_proj.bias)
        self.up = FrozenLinear(mlp.c_fc.weight, mlp.c_fc.bias)
        self.down = FrozenLinear(mlp.c_proj.weight, mlp.c_proj.bias)
        self.plain_gelu = isinstance(mlp.gelu, nn.GELU) and mlp.gelu.approximate == "none"

    def rest(self) -> None:
        """Let go of what the next call makes again."""
        for layer in (self.inner, self.outer, self.up, self.down):
            layer.rest()

    @staticmethod
    def serves(block: nn.Module) -> bool:
        """Whether `block` is built as this class expects."""
        attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        return (
            type(block).__name__ == "ResidualAttentionBlock"
            and isinstance(attention, nn.MultiheadAttention)
            and attention.in_proj_weight is not None
            and attention.bias_k is None
            and list(dict(mlp.named_children())) == ["c_fc", "gelu", "c_proj"]
        )

    def ready(self, tokens: Tensor) -> bool:
        """Tokens are on the CPU in single precision, and no weight of the block asks for a gradient."""
        plain = tokens.device.type == "cpu" and tokens.dtype == torch.float32
        return plain and not any(p.requires_grad or p.dtype != torch.float32 for p in self.block.parameters())

    def __call__(self, tokens: Tensor) -> Tensor:
        """(N, L, width) -> (N, L, width), float32; works in the precision of the surrounding autocast."""
        half = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if half else torch.float32
        with torch.autocast("cpu", enabled=False):
            block = self.block
            tokens = tokens + block.ls_1(self.outer(self._attention(block.ln_1(tokens).to(dtype))))
            normed = block.ln_2(tokens).to(dtype)
            if tokens.requires_grad and torch.is_grad_enabled():
                return tokens + block.ls_2(self.down(block.mlp.gelu(self.up(normed))))
            hidden = self.up.with_gelu(normed) if self.plain_gelu else None
            if hidden is None:
                hidden = block.mlp.gelu(self.up(normed))
            return tokens.add_(block.ls_2(self.down(hidden)))

    def _attention(self, tokens: Tensor) -> Tensor:
        """(N, L, width) -> what the heads gathered, (N, L, width)."""
        n, count, width = tokens.shape
        parts = self.inner(tokens).view(n, count, 3, self.heads, width // self.heads)
        if tokens.dtype == torch.float32 or count > MOST_TOKENS:
            found = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4)).transpose(1, 2)
        else:
            found = torch.cat([_two_products(some) for some in parts.split(AT_ONCE)])
        return found.reshape(n, count, width)


def _two_products(parts: Tensor) -> Tensor:
    """Query, key and value (N, L, 3, heads, d) -> (N, L, heads, d).

    In bf16 the fused kernel is slower than this, twice so backwards.
    """
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2)
