// Runs calls of the host build from a file, in a program of its own that a sanitizer can watch whole.
//
//     replay CALLS ANSWERS
#include <cstdio>
#include <cstdlib>

#include "calls.h"

namespace {

template <class T>
T* at(Bytes& bytes) {
    return reinterpret_cast<T*>(bytes.data());
}

void point_to(CaliboxNms& call, std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
    call.boxes = inputs[0].data();
    call.p = inputs[1].data();
    call.q = inputs[2].data();
    call.fusion = at<float>(inputs[3]);
    call.score_threshold = at<float>(inputs[4]);
    call.iou_threshold = at<float>(inputs[5]);
    call.num_detections = at<std::int32_t>(outputs[0]);
    call.out_boxes = at<float>(outputs[1]);
    call.labels = at<std::int32_t>(outputs[2]);
    call.classification_scores = at<float>(outputs[3]);
    call.localization_scores = at<float>(outputs[4]);
    call.scores = at<float>(outputs[5]);
    call.candidate_boxes = at<float>(outputs[6]);
    call.candidate_labels = at<std::int32_t>(outputs[7]);
    call.candidate_classification_scores = at<float>(outputs[8]);
    call.candidate_localization_scores = at<float>(outputs[9]);
}

int run(CaliboxNms& call) {
    call.workspace_bytes = calibox_nms_workspace_bytes(&call);
    // Of exactly this size, so that an address sanitizer sees the first byte too many.
    call.workspace = std::aligned_alloc(256, call.workspace_bytes + (call.workspace_bytes == 0) * 256);
    int const status = calibox_nms_launch(&call, nullptr);
    std::free(call.workspace);
    if (status != calibox_ok) std::fprintf(stderr, "%s\n", calibox_nms_status_text(status));
    return status;
}

}  // namespace

int main(int count, char** words) {
    if (count != 3) {
        std::fputs("usage: replay CALLS ANSWERS\n", stderr);
        return 2;
    }
    return for_each_call(words[1], words[2], [](CaliboxNms& call, std::vector<Bytes>& inputs, std::vector<Bytes>& outputs) {
        point_to(call, inputs, outputs);
        return run(call) == calibox_ok;
    });
}
