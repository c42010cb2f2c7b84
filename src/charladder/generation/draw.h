/* What draw.c does for chain.c. */

#pragma once

#include "numbers.h"

typedef struct {
    double temperature, top_p, min_p;
    long top_k, race;
} Sampling;

void distribution(const float *logits_V, long V, const Sampling *sampling, double *p_V);
long drawn(const double *p_V, long V, double uniform);
long chosen(const double *p_V, long V, const Sampling *sampling, double uniform);
