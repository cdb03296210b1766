// The part of CUDA's header of this name that emitted text may use; simt.h comes before it.

#pragma once
typedef _Float16 __half;
typedef __half half;
struct alignas(4) __half2 { __half x, y; };
typedef __half2 half2;

static inline __half __float2half_rn(float x) { return (__half)x; }
static inline __half __float2half(float x) { return (__half)x; }
static inline float __half2float(__half x) { return (float)x; }
static inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
static inline __half2 __floats2half2_rn(float low, float high) { return {(__half)low, (__half)high}; }
static inline float __low2float(__half2 x) { return (float)x.x; }
static inline float __high2float(__half2 x) { return (float)x.y; }
static inline float2 __half22float2(__half2 x) { return {(float)x.x, (float)x.y}; }
static inline unsigned short __half_as_ushort(__half x) { return simt::bits<unsigned short>(x); }
static inline __half __ushort_as_half(unsigned short x) { return simt::bits<__half>(x); }
