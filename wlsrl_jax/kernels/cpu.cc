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

namespace {

auto Binding() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_conv, Conv,
                              Binding()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Attr<Int>("top")
                                  .Attr<Int>("left")
                                  .Attr<bool>("transposed")
                                  .Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_conv_kernel_gradient, ConvKernelGradient,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_depthwise, Depthwise,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_depthwise_kernel_gradient, DepthwiseKernelGradient,
    Binding().Arg<Input>().Arg<Input>().Attr<Int>("top").Attr<Int>("left").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_conv_norm_relu, ConvNormRelu,
                              Binding()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Attr<Int>("top")
                                  .Attr<Int>("left")
                                  .Attr<Int>("height")
                                  .Attr<Int>("width")
                                  .Attr<bool>("pool")
                                  .Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_moments, Moments, Binding().Arg<Input>().Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    wlsrl_norm_relu, NormRelu,
    Binding().Arg<Input>().Arg<Input>().Arg<Input>().Attr<bool>("pool").Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_norm_relu_sums, NormReluSums,
                              Binding()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Attr<bool>("pool")
                                  .Ret<Input>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(wlsrl_norm_relu_gradient, NormReluGradient,
                              Binding()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Arg<Input>()
                                  .Attr<bool>("pool")
                                  .Ret<Input>());
