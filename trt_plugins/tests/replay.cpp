// Runs calls from a file, in a program of its own that a sanitizer can watch whole: by the host build on the CPU, or on a
// device where nvcc compiles it.
//
//     replay nms|pool CALLS ANSWERS
#include <cstdio>
#include <cstring>
#include <memory>

#include "calls.h"
#include "memory.h"

namespace {

// A tensor's place in the memory of the kernels, of exactly its size.
class Place {
   public:
    explicit Place(Bytes const& bytes) : memory_(allocate(bytes.size())) {}
    Place(Place const&) = delete;
    Place& operator=(Place const&) = delete;
    ~Place() { release(memory_); }

    template <class T>
    T* as() const {
        return static_cast<T*>(memory_);
    }

   private:
    void* memory_;
};

// Of all tensors of a call.
class Places {
   public:
    Places(std::vector<Bytes> const& inputs, std::vector<Bytes> const& outputs) {
        for (auto const& bytes : inputs) places_.push_back(std::make_unique<Place>(bytes));
        for (auto const& bytes : outputs) places_.push_back(std::make_unique<Place>(bytes));
        for (std::size_t i = 0; i < inputs.size(); ++i) copy(at<void>(i), inputs[i].data(), inputs[i].size());
    }

    template <class T>
    T* at(std::size_t place) const {
        return places_[place]->as<T>();
    }

    void read(std::vector<Bytes>& outputs) const {
        std::size_t const first = places_.size() - outputs.size();
        for (std::size_t i = 0; i < outputs.size(); ++i) copy(outputs[i].data(), at<void>(first + i), outputs[i].size());
    }

   private:
    std::vector<std::unique_ptr<Place>> places_;
};

int launch(CaliboxNms& call, Places const& places) {
    call.boxes = places.at<void>(0);
    call.p = places.at<void>(1);
    call.q = places.at<void>(2);
    call.fusion = places.at<float>(3);
    call.score_threshold = places.at<float>(4);
    call.iou_threshold = places.at<float>(5);
    call.num_detections = places.at<std::int32_t>(6);
    call.out_boxes = places.at<float>(7);
    call.labels = places.at<std::int32_t>(8);
    call.classification_scores = places.at<float>(9);
    call.localization_scores = places.at<float>(10);
    call.scores = places.at<float>(11);
    call.candidate_boxes = places.at<float>(12);
    call.candidate_labels = places.at<std::int32_t>(13);
    call.candidate_classification_scores = places.at<float>(14);
    call.candidate_localization_scores = places.at<float>(15);
    Bytes const space(calibox_nms_workspace_bytes(&call));
    Place const workspace(space);
    call.workspace = workspace.as<void>();
    call.workspace_bytes = space.size();
    int const status = calibox_nms_launch(&call, nullptr);
    wait_for_kernels();
    if (status != calibox_ok) std::fprintf(stderr, "%s\n", calibox_nms_status_text(status));
    return status;
}

int launch(CaliboxPrRoiPool& call, Places const& places) {
    call.maps = places.at<void>(0);
    call.boxes = places.at<float>(1);
    call.pooled = places.at<void>(2);
    int const status = calibox_prroi_pool_launch(&call, nullptr);
    wait_for_kernels();
    if (status != calibox_ok) std::fprintf(stderr, "%s\n", calibox_prroi_pool_status_text(status));
    return status;
}

template <class Call>
int replay(char const* calls, char const* answers) {
    return for_each_call<Call>(calls, answers, [](Call& call, std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
        Places const places(inputs, outputs);
        int const status = launch(call, places);
        places.read(outputs);
        return status == calibox_ok;
    });
}

}  // namespace

int main(int count, char** words) {
    if (count == 4 && !std::strcmp(words[1], "nms")) return replay<CaliboxNms>(words[2], words[3]);
    if (count == 4 && !std::strcmp(words[1], "pool")) return replay<CaliboxPrRoiPool>(words[2], words[3]);
    std::fputs("usage: replay nms|pool CALLS ANSWERS\n", stderr);
    return 2;
}
