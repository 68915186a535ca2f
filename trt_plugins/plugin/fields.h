// TensorRT's plugin fields as numbers and text. What has another type than asked for is left unread.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "../kernels/calibrated_nms.h"

namespace calibox {

template <class T>
T value_of(nvinfer1::PluginField const& field) {
    T value;
    std::memcpy(&value, field.data, sizeof value);
    return value;
}

// TensorRT's parser gives the type that the creator declares; other callers pass 64 bits.
inline void read_integer(nvinfer1::PluginField const& field, std::int32_t& into) {
    if (field.type == nvinfer1::PluginFieldType::kINT32) into = value_of<std::int32_t>(field);
    if (field.type == nvinfer1::PluginFieldType::kINT64) into = static_cast<std::int32_t>(value_of<std::int64_t>(field));
}

inline void read_float(nvinfer1::PluginField const& field, float& into) {
    if (field.type == nvinfer1::PluginFieldType::kFLOAT32) into = value_of<float>(field);
    if (field.type == nvinfer1::PluginFieldType::kFLOAT64) into = static_cast<float>(value_of<double>(field));
}

inline void read_text(nvinfer1::PluginField const& field, std::string& into) {
    if (field.type != nvinfer1::PluginFieldType::kCHAR) return;
    into.assign(static_cast<char const*>(field.data), static_cast<std::size_t>(field.length));
    into.resize(std::strlen(into.c_str()));  // some callers count the zero at the end
}

// Appends `what` to the list of what is wrong unless it is good.
inline void demand(std::string& wrong, bool good, char const* what) {
    if (!good) wrong += (wrong.empty() ? "" : ", ") + std::string(what);
}

// A size of a tensor as the kernels count; false where it has none, or too large a one.
inline bool as_int32(std::int64_t from, std::int32_t& into) {
    if (from < 0 || from > std::numeric_limits<std::int32_t>::max()) return false;
    into = static_cast<std::int32_t>(from);
    return true;
}

inline std::int32_t element(nvinfer1::DataType type) {
    return type == nvinfer1::DataType::kHALF ? calibox_float16 : calibox_float32;
}

inline bool is_float(nvinfer1::DataType type) {
    return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF;
}

constexpr char const* plugin_version = "1";
constexpr char const* plugin_namespace = "calibox";

// Logs through TensorRT's logger where one was given, else not at all.
void log_error(std::string const& sentence) noexcept;

}  // namespace calibox
