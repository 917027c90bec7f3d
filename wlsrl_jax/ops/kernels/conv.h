// Part of cpu.cc: standard convolution.
#pragma once

#include "winograd.h"

namespace {

constexpr Int kKernelBytes = 16 * 1024;  // half of a first-level cache
constexpr Int kPixelBytes = 24 * 1024;   // of a block of pixels: in the first-level cache

// The convolution, then relu(a y + b) and pooling if `a` is given: on a block of rows that is still
// in the cache. `y` is the shape of the convolution's output.
void ConvThen(ThreadPool& pool, const Array& x_buffer, const Kernel& kernel, const float* a,
              const float* b, bool pool2, Int top, Int left, const Shape& y, float* out) {
  const Shape s = x_buffer.shape;
  const float* x = x_buffer.data;
  if (UseWinograd(kernel.kh, kernel.kw, kernel.in, kernel.out))
    return WinogradThen(pool, x, s, kernel, a, b, pool2, top, left, y, out);
  const Int kh = kernel.kh, kw = kernel.kw, depth = kw * s.c, columns = y.w + kw - 1;
  const Int out_h = pool2 ? (y.h + 1) / 2 : y.h, out_w = pool2 ? (y.w + 1) / 2 : y.w;
  const Panels panels(y.c);
  const Int panel = panels.size;
  // The kernel, one panel of output channels after the other.
  Aligned packed(panels.count * kh * depth * panel);
  for (Int q = 0; q < panels.count; ++q)
    for (Int r = 0; r < kh * depth; ++r)
      kernel.Panel(r / s.c, r % s.c, q * panel, panel, packed.data + (q * kh * depth + r) * panel);
  const bool pointwise = kh == 1 && kw == 1 && s.h == y.h && s.w == y.w;
  Int rows_a_block = RowsOfBlock(y.h, (columns * s.c + (a ? y.w * y.c : 0)) * 4, kh - 1);
  if (pool2) rows_a_block = RoundUp(rows_a_block, 2);
  const Int blocks = (y.h + rows_a_block - 1) / rows_a_block;
  Parallel(pool, y.n * blocks, [&](Int task) {
    const Int n = task / blocks, first = task % blocks * rows_a_block;
    const Int rows = min(rows_a_block, y.h - first);
    const float* image = x + (n * s.h + first) * s.w * s.c;
    if (!pointwise) {
      float* copy = Scratch(0, (rows + kh - 1) * columns * s.c);
      CopyPadded(x + n * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns, s.c, copy);
      image = copy;
    }
    float* to = a ? Scratch(1, rows * y.w * y.c) : out + (n * y.h + first) * y.w * y.c;
    // Lines of pixels outside where all panels of the kernel fit the first-level cache: outputs are
    // then written in order.
    const Int lines = pointwise ? 1 : rows, width = pointwise ? rows * y.w : y.w;
    const Int parts = (width + kRows - 1) / kRows;
    const auto line_of_panel = [&](Int q, Int r) {
      for (Int part = 0; part < parts; ++part) {
        const Int begin = width * part / parts, m = width * (part + 1) / parts - begin;
        panels.tile(m)(image + (r * columns + begin) * s.c, s.c, columns * s.c, kh, depth,
                       packed.data + q * kh * depth * panel,
                       to + (r * y.w + begin) * y.c + q * panel, y.c, min(panel, y.c - q * panel));
      }
    };
    if (panels.count * kh * depth * panel * 4 <= kKernelBytes) {
      for (Int r = 0; r < lines; ++r)
        for (Int q = 0; q < panels.count; ++q) line_of_panel(q, r);
    } else {
      for (Int q = 0; q < panels.count; ++q)
        for (Int r = 0; r < lines; ++r) line_of_panel(q, r);
    }
    if (!a) return;
    const Shape part{1, rows, y.w, y.c};
    const Int first_out = pool2 ? first / 2 : first, rows_out = pool2 ? (rows + 1) / 2 : rows;
    for (Int r = 0; r < rows_out; ++r)
      NormReluRow(to, part, a, b, pool2, r, out + (n * out_h + first_out + r) * out_w * y.c, out_w);
  });
}

void Conv(ThreadPool& pool, const Array& x, const Array& kernel, Int top, Int left, bool transposed,
          const Array& y) {
  ConvThen(pool, x, Kernel(kernel, transposed), nullptr, nullptr, false, top, left, y.shape,
           y.data);
}

void ConvNormRelu(ThreadPool& pool, const Array& x, const Array& kernel, const Array& a,
                  const Array& b, Int top, Int left, Int height, Int width, bool pool2,
                  const Array& y) {
  const Shape out = y.shape;
  ConvThen(pool, x, Kernel(kernel, false), a.data, b.data, pool2, top, left,
           {out.n, height, width, out.c}, y.data);
}

// A product of matrices, [in, pixels] x [pixels, out].
void PointwiseKernelGradient(ThreadPool& pool, const float* x, Int in, const float* g, Int out,
                             Int pixels, float* kernel) {
  const Panels panels(out);
  const Int size = in * panels.size, sum = panels.count * size;
  const Int chunks = max<Int>(1, min(min<Int>(kMaxChunks, kMaxSums / sum), pixels / 256));
  const Int length = max<Int>(48, kPixelBytes / 4 / (in + panels.size));
  const Int parts = (in + kRows - 1) / kRows;
  Aligned sums(chunks * sum);  // [chunk, panel, in, panel size]
  Parallel(pool, chunks, [&](Int chunk) {
    float* total = sums.data + chunk * sum;
    std::memset(total, 0, sum * 4);
    const Int end = pixels * (chunk + 1) / chunks;
    for (Int first = pixels * chunk / chunks; first < end; first += length) {
      const Int count = min(length, end - first);
      for (Int q = 0; q < panels.count; ++q) {
        const Int valid = min(panels.size, out - q * panels.size);
        const float* part_g = g + first * out + q * panels.size;
        Int step = out;
        if (valid < panels.size) {
          float* filled = Scratch(1, count * panels.size);
          for (Int p = 0; p < count; ++p) {
            std::memcpy(filled + p * panels.size, part_g + p * out, valid * 4);
            std::memset(filled + p * panels.size + valid, 0, (panels.size - valid) * 4);
          }
          part_g = filled, step = panels.size;
        }
        for (Int part = 0; part < parts; ++part) {
          const Int c = in * part / parts, m = in * (part + 1) / parts - c;
          panels.gradient_tile(m)(x + first * in + c, 0, in, part_g, 0, step, 1, count,
                                  total + q * size + c * panels.size);
        }
      }
    }
  });
  Parallel(pool, in, [&](Int c) {
    for (Int q = 0; q < panels.count; ++q) {
      float* to = sums.data + q * size + c * panels.size;
      for (Int chunk = 1; chunk < chunks; ++chunk)
        for (Int o = 0; o < panels.size; ++o) to[o] += to[chunk * sum + o];
      std::memcpy(kernel + c * out + q * panels.size, to,
                  min(panels.size, out - q * panels.size) * 4);
    }
  });
}

void ConvKernelGradient(ThreadPool& pool, const Array& x_buffer, const Array& g_buffer, Int top,
                        Int left, const Array& kernel_buffer) {
  const Shape s = x_buffer.shape, g = g_buffer.shape, k = kernel_buffer.shape;
  const Int kh = k.n, kw = k.h, depth = kw * s.c, columns = g.w + kw - 1;
  const float *x = x_buffer.data, *gradient = g_buffer.data;
  float* out = kernel_buffer.data;
  if (UseWinograd(kh, kw, s.c, g.c)) {
    WinogradKernelGradient(pool, x, s, gradient, g, top, left, out);
    return;
  }
  if (kh == 1 && kw == 1 && s.h == g.h && s.w == g.w) {
    PointwiseKernelGradient(pool, x, s.c, gradient, g.c, g.pixels(), out);
    return;
  }
  const Panels layout(g.c);
  const Int panel = layout.size, panels = layout.count;
  // Tasks are parts of the batch by groups of panels: more parts need more memory for their sums,
  // more groups copy the images more often.
  const Int groups = min<Int>(panels, 4), chunks = min(g.n, kMaxChunks / groups);
  const Int size = kh * depth * panel;
  Aligned sums(chunks * panels * size);
  const Int rows_a_block = RowsOfBlock(g.h, (columns * s.c + g.w * panel) * 4, kh - 1);
  const Int parts = (depth + kRows - 1) / kRows;
  // A block of rows, or a few whole images where one is small, so that tiles stay long.
  const Int images =
      rows_a_block < g.h ? 1 : max<Int>(1, kImageBytes / (s.h * s.w * s.c + g.h * g.w * panel) / 4);
  const Int image_size = (g.h + kh - 1) * columns * s.c;
  Parallel(pool, chunks * groups, [&](Int task) {
    const Int chunk = task / groups, group = task % groups;
    const Int first_panel = panels * group / groups, end_panel = panels * (group + 1) / groups;
    const Int end = g.n * (chunk + 1) / chunks;
    float* sum = sums.data + chunk * panels * size;
    std::memset(sum + first_panel * size, 0, (end_panel - first_panel) * size * 4);
    for (Int n = g.n * chunk / chunks; n < end; n += images)
      for (Int first = 0; first < g.h; first += rows_a_block) {
        const Int rows = min(rows_a_block, g.h - first), count = min(images, end - n);
        float* copy = Scratch(0, count * image_size);
        for (Int i = 0; i < count; ++i)
          CopyPadded(x + (n + i) * s.h * s.w * s.c, s, top, left, first, rows + kh - 1, columns,
                     s.c, copy + i * image_size);
        for (Int q = first_panel; q < end_panel; ++q) {
          const Int valid = min(panel, g.c - q * panel);
          const float* part_g = gradient + (n * g.h + first) * g.w * g.c;
          Int image_g = g.h * g.w * panel;
          if (g.c != panel) {  // gathered, so that it lies together in the cache
            float* to = Scratch(1, count * rows * g.w * panel);
            part_g = to;
            image_g = rows * g.w * panel;
            for (Int i = 0; i < count; ++i) {
              const float* from = gradient + ((n + i) * g.h + first) * g.w * g.c + q * panel;
              for (Int p = 0; p < rows * g.w; ++p, to += panel, from += g.c) {
                std::memcpy(to, from, valid * 4);
                std::memset(to + valid, 0, (panel - valid) * 4);
              }
            }
          }
          for (Int i = 0; i < kh; ++i)
            for (Int part = 0; part < parts; ++part) {
              const Int begin = depth * part / parts, m = depth * (part + 1) / parts - begin;
              const GradientTileFn tile = layout.gradient_tile(m);
              for (Int image = 0; image < count; ++image)
                tile(copy + image * image_size + i * columns * s.c + begin, columns * s.c, s.c,
                     part_g + image * image_g, g.w * panel, panel, rows, g.w,
                     sum + q * size + (i * depth + begin) * panel);
            }
        }
      }
  });
  Parallel(pool, kh * kw, [&](Int tap) {
    for (Int r = tap * s.c; r < (tap + 1) * s.c; ++r)
      for (Int q = 0; q < panels; ++q)
        for (Int o = 0; o < min(panel, g.c - q * panel); ++o) {
          float total = 0;
          for (Int c = 0; c < chunks; ++c)
            total += sums.data[(c * panels + q) * size + r * panel + o];
          out[r * g.c + q * panel + o] = total;
        }
  });
}

}  // namespace
