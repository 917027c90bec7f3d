// Convolutions and batch normalisation for CPUs, called from XLA through its FFI.
//
// Arrays are float32, NHWC; kernels are [kh, kw, in, out], [kh, kw, 1, C] if depthwise.
// Convolutions have stride 1 and zero padding of `top` rows and `left` columns; what lies
// below and to the right follows from the size of the output. Every sum is formed in an order that
// depends on shapes alone, never on the number of threads.
//
// Methods: 3x3 convolutions of many channels by Winograd's (winograd.h), others directly (conv.h).
// A block of image rows, or of transformed tiles, is brought to where it stays in the second-level
// cache; a tile of kRows pixels (or inputs) by two vectors of output channels then stays in
// registers over the whole sum (tile.h).

#include "conv.h"
#include "depthwise.h"
#include "norm.h"

#define HANDLER(name, ...)                                    \
  extern "C" XLA_FFI_Error* name(XLA_FFI_CallFrame* frame) {  \
    return Answer(frame, [](const Call& c) { __VA_ARGS__; }); \
  }

HANDLER(wlsrl_conv, Conv(c.pool, c.in(0), c.in(1), c.attribute("top"), c.attribute("left"),
                         c.attribute("transposed"), c.out(0)))
HANDLER(wlsrl_conv_norm_relu,
        ConvNormRelu(c.pool, c.in(0), c.in(1), c.in(2), c.in(3), c.attribute("top"),
                     c.attribute("left"), c.attribute("height"), c.attribute("width"),
                     c.attribute("pool"), c.out(0)))
HANDLER(wlsrl_conv_kernel_gradient, ConvKernelGradient(c.pool, c.in(0), c.in(1), c.attribute("top"),
                                                       c.attribute("left"), c.out(0)))
HANDLER(wlsrl_depthwise,
        Depthwise(c.pool, c.in(0), c.in(1), c.attribute("top"), c.attribute("left"), c.out(0)))
HANDLER(wlsrl_depthwise_kernel_gradient,
        DepthwiseKernelGradient(c.pool, c.in(0), c.in(1), c.attribute("top"), c.attribute("left"),
                                c.out(0)))
HANDLER(wlsrl_moments, Moments(c.pool, c.in(0), c.out(0)))
HANDLER(wlsrl_norm_relu, NormRelu(c.pool, c.in(0), c.in(1), c.in(2), c.attribute("pool"), c.out(0)))
HANDLER(wlsrl_norm_relu_sums, NormReluSums(c.pool, c.in(0), c.in(1), c.in(2), c.in(3), c.in(4),
                                           c.attribute("pool"), c.out(0)))
HANDLER(wlsrl_norm_relu_gradient, NormReluGradient(c.pool, c.in(0), c.in(1), c.in(2), c.in(3),
                                                   c.in(4), c.in(5), c.attribute("pool"), c.out(0)))
