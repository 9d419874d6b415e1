/* Latencies of a run, and the one line of JSON that a load prints. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SAMPLES = 1 << 21 };  /* latencies kept; later ones are only counted */

static uint32_t samples[SAMPLES];  /* nanoseconds */

static inline uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void keep(uint64_t index, uint64_t took)
{
	if (index < SAMPLES)
		samples[index] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* ops > 0 operations of `units` units in all. */
static inline void report(const char *mode, const char *unit, uint64_t ops, uint64_t units,
			  double seconds)
{
	size_t n = ops < SAMPLES ? ops : SAMPLES;
	qsort(samples, n, sizeof *samples, by_size);
	printf("{\"mode\":\"%s\",\"unit\":\"%s\",\"ops\":%llu,\"units\":%llu,\"seconds\":%.6f,"
	       "\"rate\":%.3f,\"p50\":%.9f,\"p99\":%.9f,\"max\":%.9f}\n",
	       mode, unit, (unsigned long long)ops, (unsigned long long)units, seconds,
	       (double)units / seconds, samples[n / 2] / 1e9, samples[n - 1 - n / 100] / 1e9,
	       samples[n - 1] / 1e9);
}
