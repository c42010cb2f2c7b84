/* Matrix products with bfloat16 panels by AMX tiles: 16 rows take little longer than one. Inputs are rounded to
   bfloat16. Sums are in float32, and add inputs in the same order for every row, so that a row's result does not depend
   on the other rows.

   A tile register has 16 rows of 64 bytes. Tiles 0 to 3 hold sums, (16 rows, 16 outputs); tiles 4 and 5 inputs, (16
   rows, 32); tiles 6 and 7 weights of 16 outputs, (16 pairs of inputs, 16 outputs, 2).
*/

#pragma once

#include "gemm/panels.h"

#define AMX_ROW_BLOCK 128 /* rows of a block: their inputs stay in the second-level cache */

#if defined(BFLOAT16) && defined(__AMX_BF16__) && defined(__AMX_TILE__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether the operating system permits this process to use AMX. The first call requests the permission. */
static inline int has_amx(void)
{
    static int is_known, is_allowed;
    if (!__atomic_load_n(&is_known, __ATOMIC_ACQUIRE)) {
        const long request_permission = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
        __atomic_store_n(&is_allowed, syscall(SYS_arch_prctl, request_permission, tile_data) == 0, __ATOMIC_RELAXED);
        __atomic_store_n(&is_known, 1, __ATOMIC_RELEASE);
    }
    return __atomic_load_n(&is_allowed, __ATOMIC_RELAXED);
}

/* Each thread calls amx_configure before its products of N rows, and amx_release after them. */
static inline void amx_configure(long N)
{
    struct {
        uint8_t palette_id, start_row, reserved[14];
        uint16_t column_bytes[16];
        uint8_t rows[16];
    } config = {.palette_id = 1};
    if (!has_amx())
        return;
    for (int i = 0; i < 8; i++) {
        config.column_bytes[i] = 64;
        config.rows[i] = i < 6 && N < 16 ? N : 16;
    }
    _tile_loadconfig(&config);
}

static inline void amx_release(void)
{
    if (has_amx())
        _tile_release();
}

/* Loads weights of 16 outputs into tile B, and adds the product of tiles A and B to tile C. */
#define MULTIPLY_ACCUMULATE(C, A, B, weights)                                                                          \
    _tile_loadd(B, weights, 4 * PANEL_WIDTH);                                                                          \
    _tile_dpbf16ps(C, A, B)
#define ZERO_SUM_TILES                                                                                                 \
    _tile_zero(0);                                                                                                     \
    _tile_zero(1);                                                                                                     \
    _tile_zero(2);                                                                                                     \
    _tile_zero(3)
#define STORE_TILE(C, y) _tile_stored(C, y, 4 * PANEL_WIDTH)

/* Multiplies up to 16 rows, rounded and padded, by two panels, or by one if panel_1 is null. sums: (2, 16, 32). */
static inline void amx_multiply_16_rows(const element *panel_0, const element *panel_1, const element *x_NK, long K,
                                        float *sums)
{
    ZERO_SUM_TILES;
    for (long k = 0; k < K; k += 32) {
        _tile_loadd(4, x_NK + k, 2 * K);
        MULTIPLY_ACCUMULATE(0, 4, 6, panel_0 + k * PANEL_WIDTH);
        MULTIPLY_ACCUMULATE(1, 4, 7, panel_0 + k * PANEL_WIDTH + PANEL_WIDTH);
        if (panel_1) {
            MULTIPLY_ACCUMULATE(2, 4, 6, panel_1 + k * PANEL_WIDTH);
            MULTIPLY_ACCUMULATE(3, 4, 7, panel_1 + k * PANEL_WIDTH + PANEL_WIDTH);
        }
    }
    STORE_TILE(0, sums);
    STORE_TILE(1, sums + LANES);
    STORE_TILE(2, sums + 16 * PANEL_WIDTH);
    STORE_TILE(3, sums + 16 * PANEL_WIDTH + LANES);
}

/* Multiplies 32 rows, rounded and padded, by one panel. For every 32 inputs it prefetches `prefetch_lines` cache lines
   from `prefetch_at` on. sums: (32, 32). */
static inline void amx_multiply_32_rows(const element *panel, const element *x_NK, long K, const char *prefetch_at,
                                        int prefetch_lines, float *sums)
{
    ZERO_SUM_TILES;
    for (long k = 0; k < K; k += 32) {
        for (int i = 0; i < prefetch_lines; i++, prefetch_at += CACHE_LINE_BYTES)
            __builtin_prefetch(prefetch_at, 0, 2);
        _tile_loadd(4, x_NK + k, 2 * K);
        _tile_loadd(5, x_NK + 16 * K + k, 2 * K);
        MULTIPLY_ACCUMULATE(0, 4, 6, panel + k * PANEL_WIDTH);
        MULTIPLY_ACCUMULATE(1, 4, 7, panel + k * PANEL_WIDTH + PANEL_WIDTH);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    STORE_TILE(0, sums);
    STORE_TILE(1, sums + LANES);
    STORE_TILE(2, sums + 16 * PANEL_WIDTH);
    STORE_TILE(3, sums + 16 * PANEL_WIDTH + LANES);
}

/* See multiply in gemm.h. */
static inline void multiply_amx(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                                long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride,
                                element *scratch)
{
    const long padded_K = padded_inputs(K), panel_size = padded_K * PANEL_WIDTH;
    float sums[2 * 16 * PANEL_WIDTH];
    for (long begin = 0; begin < N; begin += AMX_ROW_BLOCK) {
        const long block_rows = N - begin < AMX_ROW_BLOCK ? N - begin : AMX_ROW_BLOCK;
        float *y = y_NO + begin * y_stride;
        round_rows(x_NK + begin * x_stride, x_stride, block_rows, K, scratch);
        if (block_rows <= 16) {
            for (long p = first_panel; p < last_panel; p += 2) {
                const element *panel_0 = matrix + p * panel_size,
                              *panel_1 = p + 1 < last_panel ? panel_0 + panel_size : NULL;
                amx_multiply_16_rows(panel_0, panel_1, scratch, padded_K, sums);
                store_panel(sums, block_rows, p, O, epilogue, y, y_stride);
                if (panel_1)
                    store_panel(sums + 16 * PANEL_WIDTH, block_rows, p + 1, O, epilogue, y, y_stride);
            }
            continue;
        }
        const int row_tiles = ceil_div(block_rows, 32), prefetch_lines = ceil_div(16 * LINES_PER_INPUT_PAIR, row_tiles);
        for (long p = first_panel; p < last_panel; p++)
            for (long n = 0; n < block_rows; n += 32) {
                const char *prefetch_at = (const char *)(matrix + (p + 1) * panel_size) +
                                          n / 32 * (padded_K / 32) * prefetch_lines * CACHE_LINE_BYTES;
                amx_multiply_32_rows(matrix + p * panel_size, scratch + n * padded_K, padded_K, prefetch_at,
                                     prefetch_lines, sums);
                store_panel(sums, block_rows - n < 32 ? block_rows - n : 32, p, O, epilogue, y + n * y_stride,
                            y_stride);
            }
    }
}

#else

static inline int has_amx(void) { return 0; }
static inline void amx_configure(long N) { (void)N; }
static inline void amx_release(void) {}
static inline void multiply_amx(const element *matrix, const float *x_NK, long x_stride, long N, long K, long O,
                                long first_panel, long last_panel, int epilogue, float *y_NO, long y_stride,
                                element *scratch)
{
    (void)matrix, (void)x_NK, (void)x_stride, (void)N, (void)K, (void)O, (void)first_panel, (void)last_panel,
        (void)epilogue, (void)y_NO, (void)y_stride;
    (void)scratch;
}

#endif
