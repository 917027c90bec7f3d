// Part of cpu.cc: how XLA calls a kernel. This uses the C side of XLA's FFI; its C++ side takes as
// long to compile as all kernels together.
#pragma once

#include <cstdint>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "xla/ffi/api/c_api.h"

namespace {

using Int = int64_t;

struct Shape {
  Int n, h, w, c;
  Int pixels() const { return n * h * w; }
};

struct Array {
  float* data;
  Shape shape;
};

// The threads of XLA.
class ThreadPool {
 public:
  explicit ThreadPool(const XLA_FFI_CallFrame* frame) : frame_(frame) {
    XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr,
                                            frame->ctx, &num_threads_};
    if (auto* error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args)) {
      Destroy(error);  // there is none
      num_threads_ = 1;
    }
  }
  Int num_threads() const { return num_threads_; }

  template <class F>
  void Schedule(F f) {
    XLA_FFI_Task* task = [](void* data) {
      auto* f = static_cast<F*>(data);
      (*f)();
      delete f;
    };
    auto* data = new F(std::move(f));
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr,
                                          frame_->ctx, task, data};
    if (auto* error = frame_->api->XLA_FFI_ThreadPool_Schedule(&args)) {
      Destroy(error);
      task(data);
    }
  }

 private:
  void Destroy(XLA_FFI_Error* error) {
    XLA_FFI_Error_Destroy_Args args{XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, nullptr, error};
    frame_->api->XLA_FFI_Error_Destroy(&args);
  }
  const XLA_FFI_CallFrame* frame_;
  Int num_threads_ = 1;
};

// What a kernel is called with; what does not fit is an exception.
class Call {
 public:
  explicit Call(const XLA_FFI_CallFrame* frame) : pool(frame), frame_(frame) {}

  Array in(Int k) const { return ToArray(k < frame_->args.size ? frame_->args.args[k] : nullptr); }
  Array out(Int k) const { return ToArray(k < frame_->rets.size ? frame_->rets.rets[k] : nullptr); }

  // An integer or a truth value.
  Int attribute(const char* name) const {
    const auto& attrs = frame_->attrs;
    for (Int k = 0; k < attrs.size; ++k) {
      if (std::string(attrs.names[k]->ptr, attrs.names[k]->len) != name) continue;
      if (attrs.types[k] != XLA_FFI_AttrType_SCALAR) break;
      const auto* scalar = static_cast<const XLA_FFI_Scalar*>(attrs.attrs[k]);
      if (scalar->dtype == XLA_FFI_DataType_S64) return *static_cast<const Int*>(scalar->value);
      if (scalar->dtype == XLA_FFI_DataType_PRED) return *static_cast<const bool*>(scalar->value);
    }
    throw std::invalid_argument(std::string("no attribute ") + name);
  }

  mutable ThreadPool pool;

 private:
  static Array ToArray(const void* argument) {
    const auto* buffer = static_cast<const XLA_FFI_Buffer*>(argument);
    if (!buffer || buffer->dtype != XLA_FFI_DataType_F32 || buffer->rank != 4)
      throw std::invalid_argument("every array must be float32 of four dimensions");
    const Int* d = buffer->dims;
    return {static_cast<float*>(buffer->data), {d[0], d[1], d[2], d[3]}};
  }
  const XLA_FFI_CallFrame* frame_;
};

// Answers XLA: which version of its interface this is, or the result of the kernel.
template <class F>
XLA_FFI_Error* Answer(XLA_FFI_CallFrame* frame, const F& kernel) {
  const auto* extension = frame->extension_start;
  if (extension && extension->type == XLA_FFI_Extension_Metadata) {
    auto* metadata = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(extension)->metadata;
    metadata->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                             XLA_FFI_API_MINOR};
    metadata->traits = 0;
    metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
    return nullptr;
  }
  try {
    kernel(Call(frame));
    return nullptr;
  } catch (const std::exception& error) {
    XLA_FFI_Error_Create_Args args{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, error.what(),
                                   XLA_FFI_Error_Code_INTERNAL};
    return frame->api->XLA_FFI_Error_Create(&args);
  }
}

}  // namespace
