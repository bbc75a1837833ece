"""Names of torch's functions, by what they do to a value."""

from __future__ import annotations

from symbreak.schemes.activations import ELEMENTWISE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = _words("""
    view reshape flatten unflatten permute transpose t T mT __get__ contiguous clone to float double half bfloat16 type
    type_as squeeze unsqueeze expand expand_as repeat tile chunk split tensor_split unbind __getitem__ select narrow
    movedim moveaxis swapaxes swapdims roll flip detach requires_grad_ index_select gather take_along_dim
    repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle unfold fold interpolate upsample view_as reshape_as
    identity masked_fill masked_fill_ pad constant_pad_nd alias as_strided broadcast_to broadcast_tensors rot90 dropout
    native_channel_shuffle atleast_2d ravel cpu cuda rename
""")
"""The same numbers, or some of them, in another shape."""

ADDS = _words("add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__ subtract rsub lerp addcmul")
MULTIPLIES = _words("""
    mul mul_ __mul__ __rmul__ __imul__ multiply div div_ __truediv__ __itruediv__ __rdiv__ __rtruediv__ divide
    true_divide
""")
MAPS = ELEMENTWISE | _words("""
    exp log log1p expm1 sqrt rsqrt pow __pow__ __rpow__ square abs neg __neg__ erf cos sin clamp clamp_ clip clamp_min
    clamp_max tanh sigmoid reciprocal exp_ relu_ hardtanh_ nan_to_num softplus maximum minimum sign pow_ float_power
    positive
""")
"""Each number by itself."""

NORMS = _words("batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm normalize")
MEANS = _words("""
    mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d var std var_mean
    std_mean
""")
MAXES = _words("""
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax max amin min
    boolean_dispatch logsumexp max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    fractional_max_pool2d
""")
SOFTMAXES = _words("softmax log_softmax _softmax")
CONCATS = _words("cat concat concatenate stack hstack vstack dstack column_stack")
PRODUCTS = _words("matmul __matmul__ __rmatmul__ bmm mm baddbmm einsum outer mv dot")
FUSED = _words("scaled_dot_product_attention multi_head_attention_forward")
RECURRENT = _words("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
