/* Little-endian numbers and texts of 9P frames, as the programs here put and get them.
 * They run on little-endian machines only; load.c checks. */
#include <stdint.h>
#include <string.h>

static inline uint8_t *put1(uint8_t *p, uint8_t v) { *p = v; return p + 1; }
static inline uint8_t *put2(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); return p + 2; }
static inline uint8_t *put4(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); return p + 4; }
static inline uint8_t *put8(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); return p + 8; }

static inline uint8_t *put_text(uint8_t *p, const char *s)
{
	size_t n = strlen(s);
	p = put2(p, (uint16_t)n);
	memcpy(p, s, n);
	return p + n;
}

static inline uint16_t get2(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t get4(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t get8(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
