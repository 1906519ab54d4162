// What a budget is divided by where nobody said how: how much each KV head looks up far back. No
// training and no text of the user's: the model reads three short texts, each twice, or random
// tokens where the file has no tokenizer. Heads that look for what came before (induction heads,
// arXiv 2209.11895) do so all through the second half; others never leave their neighbourhood.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/model.h"

namespace a2sf {

// [n_layers * n_kv_heads], in proportion to which a budget is to be divided. A head loses something
// if it sees nothing but the first 4 and the newest 64 tokens: the squared length of what that
// changes in its output, taken through the layer's output projection, over that of the residual
// stream to which it is added; summed over tokens of the second half. Its need is the root of
// that over the mean root of all heads, in the text in which that is most: what one kind of text
// asks of a head it has to be able to do. All 0 for a model whose context is too short to tell.
// Takes as long as reading 1,280 tokens and a bit; throws DeviceError.
std::vector<float> head_need(const Model &model, Backend &backend);

}  // namespace a2sf
