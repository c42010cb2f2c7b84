/* Steps of a training pass on a CPU, several in one: what torch would do in many passes over memory, in one.

   native.py compiles this file, once with HALF (products in bfloat16) and once without (float32), and steps.py says
   what each of them computes. Sums are in float32. Rows are shared out among threads in equal parts, so that results
   do not depend on which thread is faster; sums over rows are one a part, for the caller to add up. Head sizes are even.

   Shapes: R rows (characters of all windows), D width, B windows, T characters, H heads, E head size, F feed-forward
   width, N = B * H, Q queries at once, S characters seen.
*/

#include "numbers.h"

void norm(const float *x_RD, const float *gain_D, float epsilon, half *y_RD, float *inverse_R, long R, long D,
          int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        for (long r = first; r < last; r++) {
            const float *x = x_RD + r * D;
            half *y = y_RD + r * D;
            float square = 0;
#pragma omp simd reduction(+ : square)
            for (long d = 0; d < D; d++)
                square += x[d] * x[d];
            const float inverse = 1.0f / sqrtf(square / D + epsilon);
            inverse_R[r] = inverse;
#pragma omp simd
            for (long d = 0; d < D; d++)
                y[d] = put_any(x[d] * inverse * gain_D[d]);
        }
    }
}

/* of_gain: zeros, one row of D for each part. along_RD: a gradient that x has besides, or null. */
void norm_back(const half *of_y_RD, const float *x_RD, const float *gain_D, const float *inverse_R,
               const float *along_RD, float *of_x_RD, float *of_gain, long R, long D, int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        float *of_gain_D = of_gain + me * D;
        for (long r = first; r < last; r++) {
            const half *of_y = of_y_RD + r * D;
            const float *x = x_RD + r * D, *along = along_RD ? along_RD + r * D : 0;
            float *of_x = of_x_RD + r * D, dot = 0;
            const float inverse = inverse_R[r];
#pragma omp simd reduction(+ : dot)
            for (long d = 0; d < D; d++) {
                const float product = get(of_y[d]) * x[d];
                of_gain_D[d] += product * inverse;
                dot += product * gain_D[d];
            }
            const float pull = dot * inverse * inverse * inverse / D;
            if (along) {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    of_x[d] = along[d] + get(of_y[d]) * inverse * gain_D[d] - x[d] * pull;
            } else {
#pragma omp simd
                for (long d = 0; d < D; d++)
                    of_x[d] = get(of_y[d]) * inverse * gain_D[d] - x[d] * pull;
            }
        }
    }
}

/* qkv: queries, keys and values one after the other, (3, N, T, E); inverse: of queries and keys, (2, R, H). */
void heads(const half *mixed_RG, const float *any_gain_2E, const float *cos_TE, const float *sin_TE, float epsilon,
           half *qkv, float *inverse, long B, long T, long H, long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *gain_2E = plain(any_gain_2E, 2 * E);
    EACH_PART
    {
        MY_PART(R, first, last);
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long place = ((b * H + h) * T + t) * E;
                for (long which = 0; which < 2; which++) {
                    const half *from = mixed_RG + r * 3 * D + which * D + h * E;
                    const float *gain = gain_2E + which * E;
                    half *to = qkv + which * R * D + place;
                    float square = 0;
#pragma omp simd reduction(+ : square)
                    for (long e = 0; e < E; e++)
                        square += get(from[e]) * get(from[e]);
                    const float by = 1.0f / sqrtf(square / E + epsilon), times = which ? by : by * scale;
                    inverse[(which * R + r) * H + h] = by;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = get(from[e]) * times * gain[e];
                        const float high = get(from[e + half_E]) * times * gain[e + half_E];
                        to[e] = put(low * cos[e] - high * sin[e]);
                        to[e + half_E] = put(high * cos[e] + low * sin[e]);
                    }
                }
                memcpy(qkv + 2 * R * D + place, mixed_RG + r * 3 * D + 2 * D + h * E, E * sizeof(half));
            }
        }
    }
    free(gain_2E);
}

/* of_gain: zeros, (2, E) for each part. */
void heads_back(const half *of_qkv, const half *mixed_RG, const float *any_gain_2E, const float *inverse,
                const float *cos_TE, const float *sin_TE, half *of_mixed_RG, float *of_gain, long B, long T, long H,
                long E, int threads)
{
    const long R = B * T, D = H * E, half_E = E / 2;
    const float scale = 1.0f / sqrtf((float)E);
    float *gain_2E = plain(any_gain_2E, 2 * E);
    EACH_PART
    {
        MY_PART(R, first, last);
        float *of_y = malloc(E * sizeof(float));
        for (long r = first; r < last; r++) {
            const long b = r / T, t = r % T;
            const float *cos = cos_TE + t * E, *sin = sin_TE + t * E;
            for (long h = 0; h < H; h++) {
                const long place = ((b * H + h) * T + t) * E;
                for (long which = 0; which < 2; which++) {
                    const half *of = of_qkv + which * R * D + place;
                    const half *x = mixed_RG + r * 3 * D + which * D + h * E;
                    half *of_x = of_mixed_RG + r * 3 * D + which * D + h * E;
                    const float *gain = gain_2E + which * E;
                    float *of_gain_E = of_gain + (2 * me + which) * E, dot = 0;
                    const float by = inverse[(which * R + r) * H + h], times = which ? 1 : scale;
#pragma omp simd
                    for (long e = 0; e < half_E; e++) {
                        const float low = get(of[e]) * times, high = get(of[e + half_E]) * times;
                        of_y[e] = low * cos[e] + high * sin[e];
                        of_y[e + half_E] = high * cos[e] - low * sin[e];
                    }
#pragma omp simd reduction(+ : dot)
                    for (long e = 0; e < E; e++) {
                        const float product = of_y[e] * get(x[e]);
                        of_gain_E[e] += product * by;
                        dot += product * gain[e];
                    }
                    const float pull = dot * by * by * by / E;
#pragma omp simd
                    for (long e = 0; e < E; e++)
                        of_x[e] = put(of_y[e] * by * gain[e] - get(x[e]) * pull);
                }
                memcpy(of_mixed_RG + r * 3 * D + 2 * D + h * E, of_qkv + 2 * R * D + place, E * sizeof(half));
            }
        }
        free(of_y);
    }
    free(gain_2E);
}

/* In place; query i of a piece sees the first begin + i + 1 characters. */
void weigh(half *score_NQS, long N, long Q, long S, long begin, int threads)
{
    EACH_PART
    {
        MY_PART(N * Q, first, last);
        float *raised = malloc(S * sizeof(float));
        for (long row = first; row < last; row++) {
            half *score = score_NQS + row * S;
            const long seen = begin + row % Q + 1;
            float most;
            const float by = 1.0f / raise_all(score, seen, raised, &most);
#pragma omp simd
            for (long s = 0; s < seen; s++)
                score[s] = put(raised[s] * by);
            memset(score + seen, 0, (S - seen) * sizeof(half));
        }
        free(raised);
    }
}

/* In place, of the gradient. */
void weigh_back(half *of_NQS, const half *weight_NQS, long N, long Q, long S, long begin, int threads)
{
    EACH_PART
    {
        MY_PART(N * Q, first, last);
        for (long row = first; row < last; row++) {
            half *of = of_NQS + row * S;
            const half *weight = weight_NQS + row * S;
            const long seen = begin + row % Q + 1;
            float dot = 0;
#pragma omp simd reduction(+ : dot)
            for (long s = 0; s < seen; s++)
                dot += get(of[s]) * get(weight[s]);
#pragma omp simd
            for (long s = 0; s < seen; s++)
                of[s] = put(get(weight[s]) * (get(of[s]) - dot));
            memset(of + seen, 0, (S - seen) * sizeof(half));
        }
    }
}

/* 1 / (1 + e^-x); in a loop of its own, which compilers turn into vectors more surely. */
static inline void logistic(const half *x_F, float *share_F, long F)
{
#pragma omp simd
    for (long f = 0; f < F; f++)
        share_F[f] = 1.0f / (1.0f + exponential(-get(x_F[f])));
}

void gate(const half *both_RG, half *hidden_RF, long R, long F, int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        float *share = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const half *gate = both_RG + r * 2 * F, *up = gate + F;
            half *hidden = hidden_RF + r * F;
            logistic(gate, share, F);
#pragma omp simd
            for (long f = 0; f < F; f++)
                hidden[f] = put(get(gate[f]) * share[f] * get(up[f]));
        }
        free(share);
    }
}

void gate_back(const half *of_hidden_RF, const half *both_RG, half *of_both_RG, long R, long F, int threads)
{
    EACH_PART
    {
        MY_PART(R, first, last);
        float *share = malloc(F * sizeof(float));
        for (long r = first; r < last; r++) {
            const half *gate = both_RG + r * 2 * F, *up = gate + F, *of_hidden = of_hidden_RF + r * F;
            half *of_gate = of_both_RG + r * 2 * F, *of_up = of_gate + F;
            logistic(gate, share, F);
#pragma omp simd
            for (long f = 0; f < F; f++) {
                const float g = get(gate[f]), of = get(of_hidden[f]);
                of_up[f] = put(of * g * share[f]);
                of_gate[f] = put(of * get(up[f]) * share[f] * (1.0f + g * (1.0f - share[f])));
            }
        }
        free(share);
    }
}
