// Calls of an operator from a file, for programs that answer them.
//
// A call is the fields of its struct before the first pointer, then the inputs; its answer is the outputs in the
// struct's order. Everything is in the machine's byte order, without padding.
#pragma once

#include <cstddef>
#include <fstream>
#include <initializer_list>
#include <string>
#include <vector>

#include "../kernels/calibrated_nms.h"
#include "../kernels/prroi_pool.h"

using Bytes = std::vector<char>;

inline std::size_t product(std::initializer_list<std::int64_t> counts) {
    std::size_t all = 1;
    for (auto count : counts) all *= static_cast<std::size_t>(count);
    return all;
}

inline Bytes read_bytes(std::ifstream& from, std::size_t count) {
    Bytes bytes(count);
    from.read(bytes.data(), static_cast<std::streamsize>(count));
    return bytes;
}

inline std::size_t element_bytes(std::int32_t type) { return type == calibox_float16 ? 2 : 4; }

inline std::vector<Bytes> read_inputs(std::ifstream& from, CaliboxNms const& call) {
    std::size_t const box = element_bytes(call.box_type), score = element_bytes(call.score_type);
    std::vector<Bytes> inputs;
    inputs.push_back(read_bytes(from, product({call.batch, call.anchors, 4}) * box));
    inputs.push_back(read_bytes(from, product({call.batch, call.anchors, call.classes}) * score));
    inputs.push_back(read_bytes(from, product({call.batch, call.anchors, call.quality_columns}) * score));
    inputs.push_back(read_bytes(from, product({call.batch, 3}) * sizeof(float)));
    inputs.push_back(read_bytes(from, product({call.batch}) * sizeof(float)));
    inputs.push_back(read_bytes(from, product({call.batch}) * sizeof(float)));
    return inputs;
}

inline std::vector<Bytes> make_outputs(CaliboxNms const& call) {
    auto const detections = product({call.batch, call.max_detections, 4});
    auto const candidates = product({call.batch, call.pre_nms_top_k, 4});
    std::vector<Bytes> outputs;
    outputs.emplace_back(product({call.batch, 4}));
    outputs.emplace_back(4 * detections);
    for (int i = 0; i < 4; ++i) outputs.emplace_back(detections);
    outputs.emplace_back(4 * candidates);
    for (int i = 0; i < 3; ++i) outputs.emplace_back(candidates);
    return outputs;
}

inline std::vector<Bytes> read_inputs(std::ifstream& from, CaliboxPrRoiPool const& call) {
    std::vector<Bytes> inputs;
    inputs.push_back(
        read_bytes(from, product({call.batch, call.features, call.height, call.width}) * element_bytes(call.map_type)));
    inputs.push_back(read_bytes(from, product({call.batch, call.rois, 4}) * sizeof(float)));
    return inputs;
}

inline std::vector<Bytes> make_outputs(CaliboxPrRoiPool const& call) {
    auto const bins = product({call.pooled_height, call.pooled_width});
    return {Bytes(product({call.batch, call.rois, call.features}) * bins * element_bytes(call.map_type))};
}

template <class Call>
constexpr std::streamsize head_bytes = offsetof(CaliboxNms, max_detections) + sizeof(std::int32_t);
template <>
constexpr std::streamsize head_bytes<CaliboxPrRoiPool> = offsetof(CaliboxPrRoiPool, spatial_scale) + sizeof(float);

// Answers every call of a file by `answer(call, inputs, outputs)`; 0 when all were answered.
template <class Call, class Answer>
int for_each_call(char const* calls_path, char const* answers_path, Answer const& answer) {
    std::ifstream calls(calls_path, std::ios::binary);
    std::ofstream answers(answers_path, std::ios::binary);
    for (Call call{}; calls.read(reinterpret_cast<char*>(&call), head_bytes<Call>); call = Call{}) {
        auto inputs = read_inputs(calls, call), outputs = make_outputs(call);
        if (!answer(call, inputs, outputs)) return 1;
        for (auto const& output : outputs) answers.write(output.data(), static_cast<std::streamsize>(output.size()));
    }
    return answers ? 0 : 1;
}
