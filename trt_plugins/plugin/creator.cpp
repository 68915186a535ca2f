// The creators, and the two functions that TensorRT looks for in a plugin library.
#include <memory>
#include <new>

#include "plugin.h"
#include "pool_plugin.h"

namespace calibox {
namespace {

using namespace nvinfer1;

ILoggerFinder* logger_finder = nullptr;

template <class Plugin>
class Creator final : public IPluginCreatorV3One {
   public:
    Creator() {
        for (auto& field : fields_) field.data = nullptr;  // names and types only
    }

    IPluginV3* createPlugin(AsciiChar const*, PluginFieldCollection const* fields,
                            TensorRTPhase) noexcept override try {
        typename Plugin::Attributes attributes;
        std::string const wrong = read_attributes(*fields, attributes);
        if (wrong.empty()) return new Plugin(std::move(attributes));
        log_error(wrong);
        return nullptr;
    } catch (std::bad_alloc const&) {
        return nullptr;
    }

    PluginFieldCollection const* getFieldNames() noexcept override { return &collection_; }
    AsciiChar const* getPluginName() const noexcept override { return Plugin::name; }
    AsciiChar const* getPluginVersion() const noexcept override { return plugin_version; }
    AsciiChar const* getPluginNamespace() const noexcept override { return plugin_namespace; }

   private:
    std::vector<PluginField> fields_ = fields_of(typename Plugin::Attributes{});
    PluginFieldCollection collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()};
};

}  // namespace

void log_error(std::string const& sentence) noexcept {
    ILogger* const logger = logger_finder ? logger_finder->findLogger() : nullptr;
    if (logger) logger->log(ILogger::Severity::kERROR, sentence.c_str());
}

}  // namespace calibox

extern "C" CALIBOX_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static calibox::Creator<calibox::CalibratedNmsPlugin> suppression;
    static calibox::Creator<calibox::PrRoiPoolPlugin> pooling;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&suppression, &pooling};
    count = 2;
    return creators;
}

extern "C" CALIBOX_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { calibox::logger_finder = finder; }
