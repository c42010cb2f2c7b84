/* Sampling, for sampling.c and draft_chain.c. */

#pragma once

#include "common/numbers.h"

typedef struct {
    double temperature, top_p, min_p;
    long top_k, coupled;
} Sampling;

void distribution(const float *logits_V, long V, const Sampling *sampling, double *p_V);
long inverse_cdf_sample(const double *p_V, long V, double uniform);
long sample_one(const double *p_V, long V, const Sampling *sampling, double uniform);
