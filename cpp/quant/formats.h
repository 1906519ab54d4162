// THE list of weight formats. To add one: write quant/formats/<type>.h, include it and add a line.
#pragma once

#include "quant/formats/bf16.h"
#include "quant/formats/f16.h"
#include "quant/formats/f32.h"
#include "quant/formats/iq4_nl.h"
#include "quant/formats/iq4_xs.h"
#include "quant/formats/mxfp4.h"
#include "quant/formats/q2_k.h"
#include "quant/formats/q3_k.h"
#include "quant/formats/q4_0.h"
#include "quant/formats/q4_1.h"
#include "quant/formats/q4_k.h"
#include "quant/formats/q5_0.h"
#include "quant/formats/q5_1.h"
#include "quant/formats/q5_k.h"
#include "quant/formats/q6_k.h"
#include "quant/formats/q8_0.h"

// Calls X(Format) for every format, in the order in which messages and tables show them.
#define A2SF_WEIGHT_FORMATS(X) \
    X(F32)                     \
    X(F16)                     \
    X(BF16)                    \
    X(Q8_0)                    \
    X(Q4_0)                    \
    X(Q4_1)                    \
    X(Q5_0)                    \
    X(Q5_1)                    \
    X(Q2_K)                    \
    X(Q3_K)                    \
    X(Q4_K)                    \
    X(Q5_K)                    \
    X(Q6_K)                    \
    X(IQ4_NL)                  \
    X(IQ4_XS)                  \
    X(MXFP4)
