// Runs the blocks of a grid one after another. The threads of a block are fibers of one thread of the processor: each
// runs until it waits, in the order asked for, so that nothing depends on time and every run can be repeated.

#include "simt.h"

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <sys/mman.h>

#include "cuda_fp16.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

enum { STACK = 1 << 20, MAX_THREADS = 1024, MAX_SHARED = 227 << 10 };
enum { MAX_STATIC = 2 * 48 << 10 };  // of both kernels of a text together: NVRTC holds each to its 48 KiB
enum : long { FORWARD = 0, BACKWARD = -1 };  // any other order is a seed

alignas(1024) char dynamic_shared[MAX_SHARED];

// -- fibers

#ifdef __x86_64__
// What a call must keep goes to the stack; `ucontext` would ask the system for its mask of signals each time.
extern "C" void simt_switch(void **from, void *to);
asm(R"(
.text
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
struct Context { void *top; };
static void jump(Context &from, Context &to) { simt_switch(&from.top, to.top); }
static void prepare(Context &context, char *stack, void (*entry)()) {
  void **const top = (void **)(stack + STACK) - 8;  // six registers, where to go, and one word as after a call
  std::memset(top, 0, 8 * sizeof *top);
  top[6] = (void *)entry;
  context.top = top;
}
#else
struct Context { ucontext_t kept; };
static void jump(Context &from, Context &to) { swapcontext(&from.kept, &to.kept); }
static void prepare(Context &context, char *stack, void (*entry)()) {
  getcontext(&context.kept);
  context.kept.uc_stack.ss_sp = stack;
  context.kept.uc_stack.ss_size = STACK;
  makecontext(&context.kept, entry, 0);
}
#endif

struct Copy { char *to; const char *from; int size, bytes; size_t group; };

struct Fiber {
  Context context;
  uint3 index;
  enum { READY, WAITS, ENDED } state;
  const char *what;  // it waits at, in this line
  int line;
  unsigned mask;
  void *operand;
  Compute compute;
  std::vector<Copy> copies;  // not made so far
  size_t groups;             // of copies, that are closed
};

static std::vector<Fiber> fibers;
static Fiber *current;
static Context scheduler;
static char *stacks;
static unsigned at_barrier;
static long order;
static std::mt19937 random_bits;
static const Kernel *kernel;
static void *const *arguments;
static std::string message;

static void switch_to(Context &from, Context &to, char *stack, size_t size) {
#ifdef __SANITIZE_ADDRESS__
  void *fake;
  __sanitizer_start_switch_fiber(&fake, stack, size);
  jump(from, to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  jump(from, to);
#endif
}

static const void *scheduler_stack;
static size_t scheduler_size;
static void yield() { switch_to(current->context, scheduler, (char *)scheduler_stack, scheduler_size); }

static void run_thread() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
  kernel->call(arguments);
  current->state = Fiber::ENDED;
  yield();
}

static char *stack_of(size_t thread) { return stacks + thread * STACK; }

static std::string where() {
  char text[100];
  std::snprintf(text, sizeof text, "block (%u, %u, %u)", blockIdx.x, blockIdx.y, blockIdx.z);
  return text;
}

void fail(const char *format, ...) {
  char text[300];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  message = where() + ", thread " + std::to_string(current - fibers.data()) + ": " + text;
  yield();
  __builtin_unreachable();
}

static std::string doing(const Fiber &fiber) {
  if (fiber.state != Fiber::WAITS) return fiber.state == Fiber::ENDED ? "ended" : "can go on";
  char text[100];
  const char *const format = fiber.mask ? "at %s, line %d, mask %08x" : "at %s, line %d";
  std::snprintf(text, sizeof text, format, fiber.what, fiber.line, fiber.mask);
  return text;
}

// What all threads do, neighbours that do the same taken together.
static std::string doings() {
  std::string all;
  for (size_t first = 0, end; first < fibers.size() && all.size() < 600; first = end) {
    const std::string what = doing(fibers[first]);
    for (end = first + 1; end < fibers.size() && doing(fibers[end]) == what;) end++;
    all += (first ? "; " : "") + std::to_string(first) + (end - first > 1 ? " to " + std::to_string(end - 1) : "");
    all += (what[0] != 'a' ? " " : end - first > 1 ? " wait " : " waits ") + what;
  }
  return all;
}

// -- waiting

static void wait_at(const char *what, int line, unsigned mask = 0, void *operand = nullptr, Compute compute = nullptr) {
  Fiber &own = *current;
  own.state = Fiber::WAITS, own.what = what, own.line = line, own.mask = mask, own.operand = operand;
  own.compute = compute;
}

void barrier(int line) {
  wait_at("__syncthreads", line);
  if (++at_barrier == fibers.size()) {
    for (Fiber &fiber : fibers)
      if (fiber.line != line) fail("threads meet at different barriers: %s", doings().c_str());
    for (Fiber &fiber : fibers) fiber.state = Fiber::READY;
    at_barrier = 0;
  }
  yield();
}

static size_t thread_number() { return current - fibers.data(); }
unsigned lane() { return thread_number() % 32; }

void collective(const char *what, int line, unsigned mask, bool whole, void *operand, Compute compute) {
  const size_t first = thread_number() / 32 * 32;
  const size_t lanes = fibers.size() - first < 32 ? fibers.size() - first : 32;
  if (!(mask >> lane() & 1))
    fail("%s, line %d: the mask %08x leaves out the calling lane %u", what, line, mask, lane());
  if (lanes < 32 && mask >> lanes)
    fail("%s, line %d: the warp has %zu lanes, the mask is %08x", what, line, lanes, mask);
  wait_at(what, line, mask, operand, compute);
  void *operands[32] = {};
  bool complete = true;
  for (unsigned i = 0; i < lanes && complete; i++) {
    const Fiber &fiber = fibers[first + i];
    if (!(mask >> i & 1)) continue;
    complete = fiber.state == Fiber::WAITS && fiber.what == what && fiber.compute == compute && fiber.mask == mask &&
               (!whole || fiber.line == line);
    operands[i] = fiber.operand;
  }
  if (complete) {
    compute(operands, mask);
    for (unsigned i = 0; i < lanes; i++)
      if (mask >> i & 1) fibers[first + i].state = Fiber::READY;
  }
  yield();
}

unsigned ballot(const char *what, int line, unsigned mask, bool predicate) {
  struct Vote { bool yes; unsigned result; } own = {predicate, 0};
  collective(what, line, mask, false, &own, [](void *const *operands, unsigned mask) {
    unsigned result = 0;
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) result |= (unsigned)((Vote *)operands[i])->yes << i;
    for (int i = 0; i < 32; i++)
      if (mask >> i & 1) ((Vote *)operands[i])->result = result;
  });
  return own.result;
}

// -- tensor cores

// Accumulators are rounded toward zero, from a sum that is nearly exact, as the hardware was found to do.
static float truncated(double x) {
  const float nearest = (float)x;
  return std::fabs((double)nearest) > std::fabs(x) ? std::nextafter(nearest, 0.0f) : nearest;
}

static float half_of(unsigned pair, int high) { return (float)__ushort_as_half((unsigned short)(pair >> 16 * high)); }
static float tf32_of(unsigned x) { return bits<float>(x & ~0x1fffu); }  // the low 13 bits are not read

struct Tile { float *c; const unsigned *a, *b; };

// Lane 4 g + t holds rows g and g + 8 of C, columns 2 t and 2 t + 1.
template <int depth>
static void multiply(void *const *operands, const float (&a)[16][depth], const float (&b)[depth][8]) {
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + 8 * (i / 2), col = 2 * (lane % 4) + i % 2;
      float &c = ((Tile *)operands[lane])->c[i];
      double sum = c;
      for (int k = 0; k < depth; k++) sum += (double)a[row][k] * b[k][col];
      c = truncated(sum);
    }
}

static void multiply_f16(void *const *operands, unsigned) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Tile &own = *(Tile *)operands[lane];
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 8; i++) a[g + 8 * (i / 2 % 2)][2 * t + i % 2 + 8 * (i / 4)] = half_of(own.a[i / 2], i % 2);
    for (int i = 0; i < 4; i++) b[2 * t + i % 2 + 8 * (i / 2)][g] = half_of(own.b[i / 2], i % 2);
  }
  multiply(operands, a, b);
}

static void multiply_tf32(void *const *operands, unsigned) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; lane++) {
    const Tile &own = *(Tile *)operands[lane];
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = tf32_of(own.a[i]);
    for (int i = 0; i < 2; i++) b[t + 4 * i][g] = tf32_of(own.b[i]);
  }
  multiply(operands, a, b);
}

static void check_shared(const char *what, int line, const void *address, size_t size) {
  const char *const at = (const char *)address;
  if ((uintptr_t)at % size)
    fail("%s, line %d: the address in shared memory is not a multiple of %zu", what, line, size);
  const bool is_static = at >= kernel->shared && at + size <= kernel->shared_end;
  const bool is_dynamic = at >= dynamic_shared && at + size <= dynamic_shared + MAX_SHARED;
  if (!is_static && !is_dynamic) fail("%s, line %d: the address is not in shared memory", what, line);
}

struct Rows { unsigned *result; const void *row; int line; };

// Lanes 8 i to 8 i + 7 give the rows of matrix i; lane 4 g + t gets elements 2 t and 2 t + 1 of row (or column) g.
template <int matrices, bool transposed> static void load_matrices(void *const *operands, unsigned) {
  unsigned short m[matrices][8][8];
  for (int i = 0; i < 8 * matrices; i++) std::memcpy(m[i / 8][i % 8], ((Rows *)operands[i])->row, 16);
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < matrices; i++) {
      const int g = lane / 4, t = lane % 4;
      const unsigned low = transposed ? m[i][2 * t][g] : m[i][g][2 * t];
      const unsigned high = transposed ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
      ((Rows *)operands[lane])->result[i] = high << 16 | low;
    }
}

template <int matrices, bool transposed> static void ldmatrix(unsigned *result, const void *row, int line) {
  if (lane() < 8 * matrices) check_shared("ldmatrix", line, row, 16);
  Rows own = {result, row, line};
  collective("ldmatrix", line, ~0u, true, &own, load_matrices<matrices, transposed>);
}

// -- copies that overlap with work: made when they are waited for, or at once, as the order says

static void make(const Copy &copy) {
  std::memset(copy.to, 0, copy.size);
  std::memcpy(copy.to, copy.from, copy.bytes);
}

static void start_copy(void *shared, const void *global, int size, int bytes, int line) {
  check_shared("cp_async", line, shared, size);
  if ((uintptr_t)global % size) fail("cp_async, line %d: the address read is not a multiple of %d", line, size);
  if (bytes < 0 || bytes > size) fail("cp_async, line %d: %d bytes of %d", line, bytes, size);
  const Copy copy = {(char *)shared, (const char *)global, size, bytes, current->groups};
  if (order == BACKWARD || (order != FORWARD && random_bits() % 2)) return make(copy);
  std::memset(shared, 0xff, size);
  current->copies.push_back(copy);
}

void cp_async_wait(int pending) {
  std::vector<Copy> later;
  for (const Copy &copy : current->copies)
    copy.group + pending < current->groups ? make(copy) : later.push_back(copy);
  current->copies = later;
}

// -- blocks and grids

// Not by memset: what lies around an array is forbidden to it where the sanitizers are on.
__attribute__((no_sanitize("address"), optimize("no-tree-loop-distribute-patterns")))
static void fill(char *begin, char *end) {
  for (volatile char *at = begin; at < end; at++) *at = (char)0xff;
}

static void run_block() {
  std::vector<unsigned> turns(fibers.size());
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == BACKWARD) std::reverse(turns.begin(), turns.end());
  at_barrier = 0;
  for (size_t t = 0; t < fibers.size(); t++) {
    Fiber &fiber = fibers[t];
    const unsigned x = blockDim.x, y = blockDim.y;
    fiber.index = {(unsigned)(t % x), (unsigned)(t / x % y), (unsigned)(t / x / y)};
    fiber.state = Fiber::READY, fiber.groups = 0;
    fiber.copies.clear();
    prepare(fiber.context, stack_of(t), run_thread);
  }
  for (bool going = true; going;) {
    if (order != FORWARD && order != BACKWARD) std::shuffle(turns.begin(), turns.end(), random_bits);
    going = false;
    for (unsigned t : turns) {
      if (fibers[t].state != Fiber::READY) continue;
      going = true;
      current = &fibers[t];
      threadIdx = current->index;
      switch_to(scheduler, current->context, stack_of(t), STACK);
      if (!message.empty()) return;
    }
  }
  for (const Fiber &fiber : fibers)
    if (fiber.state != Fiber::ENDED) message = where() + ": threads wait for ever: " + doings();
}

static void check_launch(const unsigned *block, size_t shared, size_t count, const size_t *sizes) {
  const size_t threads = (size_t)block[0] * block[1] * block[2], is_static = kernel->shared_end - kernel->shared;
  if (threads < 1 || threads > MAX_THREADS) message = "a block has 1 to 1024 threads, not " + std::to_string(threads);
  else if (shared > MAX_SHARED) message = std::to_string(shared) + " bytes of dynamic shared memory are too many";
  else if (kernel->sizes != std::vector<size_t>(sizes, sizes + count))
    message = "the arguments have other sizes than the parameters";
#ifndef __SANITIZE_ADDRESS__  // which puts room between arrays
  else if (is_static > MAX_STATIC) message = std::to_string(is_static) + " bytes of static shared memory are too many";
#endif
}

// As cuLaunchKernel: what went wrong, or null.
extern "C" const char *simt_launch(const Kernel *asked, const unsigned *grid, const unsigned *block, size_t shared,
                                   long asked_order, size_t count, void *const *values, const size_t *sizes) {
  message.clear();
  kernel = asked, arguments = values, order = asked_order;
  check_launch(block, shared, count, sizes);
  if (!message.empty()) return message.c_str();
  random_bits.seed((unsigned)order);
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], block[2]};
  fibers.resize(block[0] * block[1] * block[2]);
  if (!stacks) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    stacks = (char *)mmap(nullptr, MAX_THREADS * (size_t)STACK, PROT_READ | PROT_WRITE, flags, -1, 0);
    for (size_t t = 0; t < MAX_THREADS; t++) mprotect(stack_of(t), 4096, PROT_NONE);  // a fault if one is too small
  }
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(dynamic_shared, MAX_SHARED);
  __asan_poison_memory_region(dynamic_shared + shared, MAX_SHARED - shared);
#endif
  std::vector<size_t> turns((size_t)grid[0] * grid[1] * grid[2]);
  std::iota(turns.begin(), turns.end(), (size_t)0);
  if (order == BACKWARD) std::reverse(turns.begin(), turns.end());
  else if (order != FORWARD) std::shuffle(turns.begin(), turns.end(), random_bits);
  for (size_t turn : turns) {
    blockIdx = {(unsigned)(turn % grid[0]), (unsigned)(turn / grid[0] % grid[1]), (unsigned)(turn / grid[0] / grid[1])};
    fill(kernel->shared, kernel->shared_end);
    fill(dynamic_shared, dynamic_shared + shared);
    run_block();
    if (!message.empty()) return message.c_str();
  }
  return nullptr;
}

}  // namespace simt

void mma_m16n8k16_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line) {
  simt::Tile own = {c, a, b};
  simt::collective("mma_m16n8k16_f16", line, ~0u, true, &own, simt::multiply_f16);
}
void mma_m16n8k8_tf32(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line) {
  simt::Tile own = {c, a, b};
  simt::collective("mma_m16n8k8_tf32", line, ~0u, true, &own, simt::multiply_tf32);
}
void ldmatrix_x2(unsigned (&r)[2], const void *row, int line) { simt::ldmatrix<2, false>(r, row, line); }
void ldmatrix_x2_trans(unsigned (&r)[2], const void *row, int line) { simt::ldmatrix<2, true>(r, row, line); }
void ldmatrix_x4(unsigned (&r)[4], const void *row, int line) { simt::ldmatrix<4, false>(r, row, line); }
void ldmatrix_x4_trans(unsigned (&r)[4], const void *row, int line) { simt::ldmatrix<4, true>(r, row, line); }
void cp_async_16(void *shared, const void *global, int bytes, int line) {
  simt::start_copy(shared, global, 16, bytes, line);
}
void cp_async_4(void *shared, const void *global, int bytes, int line) {
  simt::start_copy(shared, global, 4, bytes, line);
}
void cp_async_commit() { simt::current->groups++; }
void half2_floats(unsigned bits, float &low, float &high) { low = simt::half_of(bits, 0), high = simt::half_of(bits, 1); }
unsigned half2_bits(float low, float high) {
  return __half_as_ushort((__half)high) << 16 | __half_as_ushort((__half)low);
}
unsigned tf32_bits(float x) {  // to nearest, ties away from zero
  const unsigned bits = __float_as_uint(x);
  return std::isfinite(x) ? (bits + 0x1000u) & ~0x1fffu : bits;
}
