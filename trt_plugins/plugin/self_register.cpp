// Registers the creators as soon as the library is loaded, for programs that only load it (Triton, LD_PRELOAD,
// `trtexec --staticPlugins`). TensorRT itself needs the other library, which exports getCreators.
//
// Nothing of TensorRT is linked: the registry of whichever TensorRT the program has loaded is asked for.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <initializer_list>

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

namespace {

using Registry = nvinfer1::IPluginRegistry* (*)();

Registry find_registry() {
    for (char const* name : {"libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer_lean.so.11", "libnvinfer_lean.so.10"}) {
        void* const library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
        void* const found = library ? dlsym(library, "getPluginRegistry") : nullptr;
        if (found) return reinterpret_cast<Registry>(found);
    }
    return nullptr;
}

__attribute__((constructor)) void register_creators() {
    Registry const registry = find_registry();
    if (!registry) {
        std::fputs("calibox: no TensorRT 10 or 11 is loaded, so no operator was registered\n", stderr);
        return;
    }
    std::int32_t count = 0;
    auto const* const creators = getCreators(count);
    for (std::int32_t i = 0; i < count; ++i)
        if (!registry()->registerCreator(*creators[i], "calibox"))
            std::fputs("calibox: an operator is registered already, or TensorRT refused it\n", stderr);
}

}  // namespace
