#include "pool_plugin.h"

#include <cfloat>
#include <string_view>

namespace calibox {
namespace {

using namespace nvinfer1;

void read_field(PluginField const& field, PoolAttributes& attributes) {
    std::string_view const name = field.name;
    if (name == "pooled_height") read_integer(field, attributes.pooled_height);
    if (name == "pooled_width") read_integer(field, attributes.pooled_width);
    if (name == "spatial_scale") read_float(field, attributes.spatial_scale);
}

// Sizes of a call; false where the shapes are not the operator's.
bool read_shapes(Dims const& maps, Dims const& rois, PoolAttributes const& attributes, CaliboxPrRoiPool& call) {
    if (maps.nbDims != 4 || rois.nbDims != 3) return false;
    call.pooled_height = attributes.pooled_height;
    call.pooled_width = attributes.pooled_width;
    call.spatial_scale = attributes.spatial_scale;
    bool const fit = as_int32(maps.d[0], call.batch) && as_int32(maps.d[1], call.features) &&
                     as_int32(maps.d[2], call.height) && as_int32(maps.d[3], call.width) && as_int32(rois.d[1], call.rois);
    return fit && rois.d[0] == maps.d[0] && rois.d[2] == 4;
}

}  // namespace

std::string read_attributes(PluginFieldCollection const& fields, PoolAttributes& attributes) {
    for (std::int32_t i = 0; i < fields.nbFields; ++i)
        if (fields.fields[i].data != nullptr) read_field(fields.fields[i], attributes);
    std::string wrong;
    demand(wrong, attributes.pooled_height >= 1, "pooled_height must be at least 1");
    demand(wrong, attributes.pooled_width >= 1, "pooled_width must be at least 1");
    demand(wrong, attributes.spatial_scale > 0 && attributes.spatial_scale <= FLT_MAX, "spatial_scale must be above 0");
    return wrong.empty() ? wrong : "PrRoIPool: " + wrong + "; give every attribute";
}

std::vector<PluginField> fields_of(PoolAttributes const& attributes) {
    return {
        {"pooled_height", &attributes.pooled_height, PluginFieldType::kINT32, 1},
        {"pooled_width", &attributes.pooled_width, PluginFieldType::kINT32, 1},
        {"spatial_scale", &attributes.spatial_scale, PluginFieldType::kFLOAT32, 1},
    };
}

std::int32_t PrRoiPoolPlugin::getOutputDataTypes(
    DataType* types, std::int32_t outputs, DataType const* in, std::int32_t inputs) const noexcept {
    if (!good_counts(inputs, outputs)) return -1;
    types[0] = in[0];
    return 0;
}

std::int32_t PrRoiPoolPlugin::getOutputShapes(
    DimsExprs const* in, std::int32_t inputs, DimsExprs const*, std::int32_t, DimsExprs* out, std::int32_t outputs,
    IExprBuilder& builder) noexcept {
    if (!good_counts(inputs, outputs) || in[0].nbDims != 4 || in[1].nbDims != 3) return -1;
    out[0].nbDims = 5;
    out[0].d[0] = in[0].d[0];
    out[0].d[1] = in[1].d[1];
    out[0].d[2] = in[0].d[1];
    out[0].d[3] = builder.constant(attributes_.pooled_height);
    out[0].d[4] = builder.constant(attributes_.pooled_width);
    return 0;
}

bool PrRoiPoolPlugin::supportsFormatCombination(
    std::int32_t place, DynamicPluginTensorDesc const* tensors, std::int32_t inputs, std::int32_t outputs) noexcept {
    if (!good_counts(inputs, outputs) || tensors[place].desc.format != TensorFormat::kLINEAR) return false;
    DataType const type = tensors[place].desc.type;
    if (place == 0) return is_float(type);
    return place == 1 ? type == DataType::kFLOAT : type == tensors[0].desc.type;
}

std::int32_t PrRoiPoolPlugin::onShapeChange(
    PluginTensorDesc const* in, std::int32_t inputs, PluginTensorDesc const*, std::int32_t outputs) noexcept {
    CaliboxPrRoiPool call{};
    if (good_counts(inputs, outputs) && read_shapes(in[0].dims, in[1].dims, attributes_, call)) return 0;
    log_error("PrRoIPool takes features [B, F, H, W] and rois [B, K, 4]");
    return -1;
}

std::int32_t PrRoiPoolPlugin::enqueue(
    PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs, void* const* outputs, void*,
    cudaStream_t stream) noexcept {
    CaliboxPrRoiPool call{};
    if (!read_shapes(in[0].dims, in[1].dims, attributes_, call)) return calibox_bad_sizes;
    call.map_type = element(in[0].type);
    call.maps = inputs[0];
    call.boxes = static_cast<float const*>(inputs[1]);
    call.pooled = outputs[0];
    std::int32_t const status = calibox_prroi_pool_launch(&call, stream);
    if (status != calibox_ok) log_error(std::string("PrRoIPool: ") + calibox_prroi_pool_status_text(status));
    return status;
}

}  // namespace calibox
