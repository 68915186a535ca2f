// The operator's attributes as TensorRT's plugin fields: read by name, checked, and written back the same.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "../kernels/calibrated_nms.h"

namespace calibox {

// Every attribute must be given: TensorRT skips what an ONNX node lacks, and a default here could differ from the one
// that the model was made with.
struct Attributes {
    std::string out_score;
    std::int32_t class_agnostic = -1;
    float candidate_floor = -1;
    std::int32_t pre_nms_top_k = -1;
    std::int32_t max_detections = -1;

    // CaliboxOutScore, or -1.
    std::int32_t out_score_number() const;

    // Copies them into a call.
    void write_to(CaliboxNms& call) const;
};

// Reads what is there and returns a sentence about what is missing or wrong, empty when nothing is.
std::string read_attributes(nvinfer1::PluginFieldCollection const& fields, Attributes& attributes);

// The fields by which the same plugin can be made again; they point into `attributes`.
std::vector<nvinfer1::PluginField> fields_of(Attributes const& attributes);

}  // namespace calibox
