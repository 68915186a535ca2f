#include "attributes.h"

#include <array>
#include <string_view>

#include "fields.h"

namespace calibox {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// In the order of CaliboxOutScore.
constexpr std::array<std::string_view, 3> out_scores{"key", "classification", "classification_clustered"};

void read_field(PluginField const& field, Attributes& attributes) {
    std::string_view const name = field.name;
    if (name == "out_score") read_text(field, attributes.out_score);
    if (name == "class_agnostic") read_integer(field, attributes.class_agnostic);
    if (name == "candidate_floor") read_float(field, attributes.candidate_floor);
    if (name == "pre_nms_top_k") read_integer(field, attributes.pre_nms_top_k);
    if (name == "max_detections") read_integer(field, attributes.max_detections);
}

std::string complaint(Attributes const& attributes) {
    std::string wrong;
    demand(wrong, attributes.out_score_number() >= 0, "out_score must be key, classification or classification_clustered");
    demand(wrong, attributes.class_agnostic == 0 || attributes.class_agnostic == 1, "class_agnostic must be 0 or 1");
    demand(wrong, attributes.candidate_floor >= 0, "candidate_floor must be at least 0");
    demand(wrong, attributes.pre_nms_top_k >= 1 && attributes.pre_nms_top_k <= 3840, "pre_nms_top_k must be 1..3840");
    demand(wrong, attributes.max_detections >= 1, "max_detections must be at least 1");
    return wrong.empty() ? wrong : "CalibratedNMS: " + wrong + "; give every attribute";
}

}  // namespace

std::int32_t Attributes::out_score_number() const {
    for (std::size_t i = 0; i < out_scores.size(); ++i)
        if (out_scores[i] == out_score) return static_cast<std::int32_t>(i);
    return -1;
}

void Attributes::write_to(CaliboxNms& call) const {
    call.out_score = out_score_number();
    call.class_agnostic = class_agnostic;
    call.candidate_floor = candidate_floor;
    call.pre_nms_top_k = pre_nms_top_k;
    call.max_detections = max_detections;
}

std::string read_attributes(nvinfer1::PluginFieldCollection const& fields, Attributes& attributes) {
    for (std::int32_t i = 0; i < fields.nbFields; ++i)
        if (fields.fields[i].data != nullptr) read_field(fields.fields[i], attributes);
    return complaint(attributes);
}

std::vector<PluginField> fields_of(Attributes const& attributes) {
    return {
        {"out_score", attributes.out_score.data(), PluginFieldType::kCHAR,
         static_cast<std::int32_t>(attributes.out_score.size())},
        {"class_agnostic", &attributes.class_agnostic, PluginFieldType::kINT32, 1},
        {"candidate_floor", &attributes.candidate_floor, PluginFieldType::kFLOAT32, 1},
        {"pre_nms_top_k", &attributes.pre_nms_top_k, PluginFieldType::kINT32, 1},
        {"max_detections", &attributes.max_detections, PluginFieldType::kINT32, 1},
    };
}

}  // namespace calibox
