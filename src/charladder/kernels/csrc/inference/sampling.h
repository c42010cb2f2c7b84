/* Functions of sampling.c that draft_chain.c uses too. */

#pragma once

#include "common/numbers.h"

typedef struct {
    double temperature, top_p, min_p;
    long top_k, coupled;
} SamplingParams;

void distribution(const float *logits_V, long V, const SamplingParams *sampling, double *p_V);
long inverse_cdf_sample(const double *p_V, long V, double uniform);
long sample_one(const double *p_V, long V, const SamplingParams *sampling, double uniform);
