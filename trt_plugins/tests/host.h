// What a program needs that stands in for TensorRT: expressions of sizes, a logger, and the creators of a library.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <string>

using namespace nvinfer1;

inline void demand(bool good, char const* what) {
    if (good) return;
    std::fprintf(stderr, "plugin_host: %s\n", what);
    std::exit(1);
}

class Value final : public apiv::VDimensionExpr {
   public:
    explicit Value(std::int64_t value) : value_(value) {}
    bool isConstant() const override { return true; }
    std::int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

   private:
    std::int64_t value_;
};

class Expression final : public IDimensionExpr {
   public:
    explicit Expression(std::int64_t value) : value_(value) { mImpl = &value_; }
    ~Expression() noexcept override = default;

   private:
    Value value_;
};

// Constants only: the plugin makes no other expressions.
class Constants final : public apiv::VExprBuilder {
   public:
    IDimensionExpr const* constant(std::int64_t value) override { return &made_.emplace_back(value); }
    IDimensionExpr const* operation(DimensionOperation, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }
    IDimensionExpr const* declareSizeTensor(std::int32_t, IDimensionExpr const&, IDimensionExpr const&) override {
        return nullptr;
    }

   private:
    std::deque<Expression> made_;
};

class Builder final : public IExprBuilder {
   public:
    Builder() { mImpl = &constants_; }
    ~Builder() noexcept override = default;

   private:
    Constants constants_;
};

class Errors final : public ILogger {
   public:
    void log(Severity severity, AsciiChar const* message) noexcept override {
        if (severity <= Severity::kERROR) std::printf("logged: %s\n", message);
    }
};

class Finder final : public ILoggerFinder {
   public:
    ILogger* findLogger() override { return &errors_; }

   private:
    Errors errors_;
};

inline void* open(char const* path, int flags, char const* what) {
    void* const library = dlopen(path, flags);
    if (!library) std::fprintf(stderr, "%s\n", dlerror());
    demand(library != nullptr, what);
    return library;
}

inline IPluginCreatorV3One* creator_by_hand(char const* path, char const* name) {
    void* const library = open(path, RTLD_NOW | RTLD_LOCAL, "the library cannot be loaded");
    auto const creators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(std::int32_t&)>(dlsym(library, "getCreators"));
    auto const set_finder = reinterpret_cast<void (*)(ILoggerFinder*)>(dlsym(library, "setLoggerFinder"));
    demand(creators && set_finder, "getCreators or setLoggerFinder is missing");
    static Finder finder;
    set_finder(&finder);
    std::int32_t count = 0;
    auto* const* const found = creators(count);
    demand(count == 2, "there must be two creators");
    for (std::int32_t i = 0; i < count; ++i) {
        auto* const creator = static_cast<IPluginCreatorV3One*>(found[i]);
        if (!std::strcmp(creator->getPluginName(), name)) return creator;
    }
    demand(false, "no creator has this name");
    return nullptr;
}

inline IPluginCreatorV3One* creator_by_registry(char const* path, char const* name, char const* tensorrt) {
    void* const library = open(tensorrt, RTLD_NOW | RTLD_GLOBAL, "the registry's library cannot be loaded");
    auto const registry = reinterpret_cast<IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
    demand(registry != nullptr, "there is no getPluginRegistry");
    demand(registry()->loadLibrary(path) != nullptr, "the registry does not load the library");
    auto* const found = registry()->getCreator(name, "1", "calibox");
    demand(found != nullptr, "the registry has no such creator of version 1 in calibox");
    std::printf("registry: %s version 1 in calibox\n", name);
    return static_cast<IPluginCreatorV3One*>(found);
}

template <class T>
T& capability(IPluginV3& plugin, PluginCapabilityType type) {
    return *static_cast<T*>(plugin.getCapabilityInterface(type));
}

inline bool same_fields(PluginFieldCollection const& one, PluginFieldCollection const& other) {
    bool same = one.nbFields == other.nbFields;
    for (std::int32_t i = 0; same && i < one.nbFields; ++i) {
        auto const &a = one.fields[i], &b = other.fields[i];
        std::size_t const bytes = static_cast<std::size_t>(a.length) * (a.type == PluginFieldType::kCHAR ? 1 : 4);
        same = !std::strcmp(a.name, b.name) && a.length == b.length && !std::memcmp(a.data, b.data, bytes);
    }
    return same;
}

// The plugin as an engine gets it back: from the fields that it asked to be stored.
inline std::unique_ptr<IPluginV3> through_a_file(IPluginCreatorV3One& creator, IPluginV3& plugin) {
    auto const* const stored =
        capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME).getFieldsToSerialize();
    std::unique_ptr<IPluginV3> read(creator.createPlugin("host", stored, TensorRTPhase::kRUNTIME));
    demand(read != nullptr, "the plugin is not made again from its own fields");
    auto& runtime = capability<IPluginV3OneRuntime>(*read, PluginCapabilityType::kRUNTIME);
    demand(same_fields(*stored, *runtime.getFieldsToSerialize()), "the fields changed on the way");
    return read;
}
