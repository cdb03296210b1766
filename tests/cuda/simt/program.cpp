// A launch from a file, for runs with sanitizers: each array of the file becomes memory of exactly its size.
//
//   program KERNEL FILE    the file is written anew, with the arrays as the kernel left them
//
// The file: grid, block (3 words each), shared bytes, order, number of arguments (one word each); then per argument
// its kind, its size in bytes (one word each) and its bytes. A word is an int64.

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

extern "C" const char *simt_launch(const void *kernel, const unsigned *grid, const unsigned *block, size_t shared,
                                   long order, size_t count, void *const *values, const size_t *sizes);

enum Kind : long { VALUE, ARRAY };

int main(int, char **words) {
  std::FILE *file = std::fopen(words[2], "rb");
  const auto read = [&](void *to, size_t size) {
    if (size && std::fread(to, size, 1, file) != 1) std::exit(3);
  };
  long head[9];
  read(head, sizeof head);
  unsigned shape[6];
  for (int i = 0; i < 6; i++) shape[i] = (unsigned)head[i];
  struct Argument { Kind kind; long bytes; } one;
  std::vector<Argument> arguments;
  std::vector<void *> memory, values(head[8]);
  std::vector<size_t> sizes;
  for (long i = 0; i < head[8]; i++) {
    read(&one, sizeof one);
    void *at = nullptr;
    if (posix_memalign(&at, one.kind == ARRAY ? 256 : 16, one.bytes)) std::exit(3);
    read(at, one.bytes);
    arguments.push_back(one), memory.push_back(at);
    sizes.push_back(one.kind == ARRAY ? sizeof(void *) : one.bytes);
  }
  for (long i = 0; i < head[8]; i++) values[i] = arguments[i].kind == ARRAY ? &memory[i] : memory[i];
  const void *const kernel = dlsym(nullptr, words[1]);
  const char *const error =
      simt_launch(kernel, shape, shape + 3, head[6], head[7], head[8], values.data(), sizes.data());
  if (error) {
    std::fprintf(stderr, "%s\n", error);
    return 2;
  }
  file = std::freopen(words[2], "wb", file);
  for (long i = 0; i < head[8]; i++)
    if (arguments[i].kind == ARRAY && arguments[i].bytes) std::fwrite(memory[i], arguments[i].bytes, 1, file);
  return std::fclose(file) ? 3 : 0;
}
