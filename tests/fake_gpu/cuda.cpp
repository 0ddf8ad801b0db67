// A CUDA runtime, driver and cuBLAS with one GPU that computes nothing and counts.
// Loaded before PyTorch's own, it lets PyTorch's real CUDA code run on a machine without a GPU: each
// launch, copy, wait and recording arrives here and is written down, no kernel runs, numbers are
// whatever lay in memory. Knows what PyTorch for CUDA 13 and Triton 3 ask for. Functions that only
// succeed are declared without their arguments, which a C caller on x86-64 and ARM64 allows.
#include <driver_types.h>
#include <vector_types.h>

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#define C extern "C" __attribute__((visibility("default")))

static std::recursive_mutex lock;
static std::map<std::string, int>& counts() { static auto* all = new std::map<std::string, int>; return *all; }
static void note(const char* kind) {
  std::lock_guard<std::recursive_mutex> held(lock);
  ++counts()[kind];
}
// How often that has happened since the last call.
C int fake_count(const char* kind) {
  std::lock_guard<std::recursive_mutex> held(lock);
  return std::exchange(counts()[kind], 0);
}

// --- what only succeeds
#define DONE(name) C int name() { return 0; }
DONE(cudaSetDevice) DONE(cudaGetLastError) DONE(cudaPeekAtLastError) DONE(cudaFuncSetAttribute)
DONE(cudaStreamDestroy) DONE(cudaStreamQuery) DONE(cudaThreadExchangeStreamCaptureMode)
DONE(cudaStreamWaitEvent) DONE(cudaEventDestroy) DONE(cudaEventRecord) DONE(cudaEventQuery)
DONE(cudaEventRecordWithFlags) DONE(cudaGraphDestroy) DONE(cudaGraphExecDestroy)
DONE(cudaGraphRetainUserObject) DONE(cudaUserObjectRelease) DONE(cudaStreamUpdateCaptureDependencies)
DONE(cublasDestroy_v2) DONE(cublasSetStream_v2) DONE(cublasSetWorkspace_v2)
DONE(cublasSetMathMode) DONE(cublasSetPointerMode_v2)
DONE(cuInit) DONE(cuCtxSetCurrent) DONE(cuDevicePrimaryCtxRetain) DONE(cuFuncSetAttribute)
DONE(cuFuncSetCacheConfig) DONE(cuModuleUnload) DONE(cuCtxSetLimit) DONE(cuLinkAddData_v2)
DONE(cuLinkComplete) DONE(cuLinkCreate_v2) DONE(cuTensorMapEncodeTiled) DONE(cuCtxGetDevice)
C void __cudaRegisterFatBinaryEnd() {}
C void __cudaUnregisterFatBinary() {}
C void __cudaRegisterVar() {}
C void __cudaRegisterFunction() {}
C char __cudaInitModule() { return 1; }
C void** __cudaRegisterFatBinary() { static void* handle[4]; return handle; }
C bool _ZN3c104cuda17hasPrimaryContextEa() { return true; }  // c10::cuda::hasPrimaryContext
// at::Context::userEnabledCuDNN: cuDNN's engines are programs that would have to be faked one by one.
C bool _ZNK2at7Context16userEnabledCuDNNEv() { return false; }

// --- what gives a number, or something to hold
static int something[64];
#define GIVES(name, type, value) C int name(type* out) { *out = (type)(value); return 0; }
#define GIVES_HELD(name) GIVES(name, void*, something)
GIVES(cudaGetDeviceCount, int, 1) GIVES(cudaGetDevice, int, 0) GIVES(cudaDriverGetVersion, int, 13000)
GIVES(cudaRuntimeGetVersion, int, 13000) GIVES(cudaDeviceCanAccessPeer, int, 0)
GIVES(cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, int, 2)
GIVES(cudaOccupancyMaxActiveBlocksPerMultiprocessor, int, 2)
GIVES(cuDriverGetVersion, int, 13000) GIVES(cuDeviceGet, int, 0) GIVES(cuDeviceGetCount, int, 1)
GIVES(cuOccupancyMaxActiveBlocksPerMultiprocessor, int, 2) GIVES(cuOccupancyMaxActiveClusters, int, 1)
GIVES(cuStreamIsCapturing, int, 0) GIVES(cuCtxGetLimit, size_t, 1 << 20)
GIVES_HELD(cublasCreate_v2) GIVES_HELD(cudaUserObjectCreate)
GIVES_HELD(cuCtxGetCurrent) GIVES_HELD(cuModuleGetFunction) GIVES_HELD(cuModuleLoad)
GIVES_HELD(cuModuleLoadData) GIVES_HELD(cuModuleLoadDataEx) GIVES_HELD(cudaGraphInstantiate)
GIVES_HELD(cudaGraphInstantiateWithFlags)
static void* fresh() { static long count = 1; return (void*)(count++ << 8); }
#define GIVES_FRESH(name) C int name(void** out) { *out = fresh(); return 0; }
GIVES_FRESH(cudaStreamCreateWithPriority) GIVES_FRESH(cudaStreamCreateWithFlags)
GIVES_FRESH(cudaStreamCreate) GIVES_FRESH(cudaEventCreateWithFlags) GIVES_FRESH(cudaEventCreate)
C int cublasGetMathMode(void*, int* mode) { *mode = 0; return 0; }
C int cublasGetPointerMode_v2(void*, int* mode) { *mode = 0; return 0; }
C int cudaDeviceGetStreamPriorityRange(int* least, int* greatest) { *least = 0; *greatest = -5; return 0; }
C int cudaEventElapsedTime(float* ms) { *ms = 1; return 0; }
C int cudaGraphGetNodes(void*, void*, size_t* count) { *count = 1; return 0; }
C int cudaGetSymbolAddress(void** out) { static char zeros[1 << 16]; *out = zeros; return 0; }
C int cudaDeviceGetPCIBusId(char* out) { strcpy(out, "0000:00:00.0"); return 0; }
C int cudaGetKernel(void** out, void* function) { *out = function; return 0; }
C int __cudaGetKernel(void** out, void* function) { *out = function; return 0; }
C const char* cudaGetErrorString(int) { return "operation not permitted when stream is capturing"; }
C const char* cudaGetErrorName(int) { return "cudaErrorStreamCaptureUnsupported"; }
C int cuGetErrorString(int, const char** out) { *out = "fake"; return 0; }
C int cuGetErrorName(int, const char** out) { *out = "fake"; return 0; }
C int cuDeviceGetName(char* out) { strcpy(out, "Fake GPU"); return 0; }
C int cuDeviceTotalMem_v2(size_t* out) { *out = 80ull << 30; return 0; }
C int cuMemGetInfo_v2(size_t* free, size_t* all) { *free = 79ull << 30; *all = 80ull << 30; return 0; }
C int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) { *flags = 0; *active = 1; return 0; }
C int cuFuncGetAttribute(int* out, int which) { *out = which == 0 ? 1024 : 0; return 0; }
C int cuPointerGetAttribute(void** out, int, void* pointer) { *out = pointer; return 0; }

// --- the device: as large as an H100, of the compute capability that FAKE_CAPABILITY says
static int capability() { const char* said = getenv("FAKE_CAPABILITY"); return said ? atoi(said) : 90; }
static int attribute(int which) {  // the runtime and the driver number them alike
  switch (which) {
    case cudaDevAttrMultiProcessorCount: return 132;
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 49152;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return 232448;
    case cudaDevAttrMaxRegistersPerBlock: return 65536;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrComputeCapabilityMajor: return capability() / 10;
    case cudaDevAttrComputeCapabilityMinor: return capability() % 10;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    default: return 1;
  }
}
C int cudaDeviceGetAttribute(int* out, int which) { *out = attribute(which); return 0; }
C int cuDeviceGetAttribute(int* out, int which) { *out = attribute(which); return 0; }
C int cudaGetDeviceProperties(cudaDeviceProp* p) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Fake GPU");
  p->totalGlobalMem = 80ull << 30; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536;
  p->warpSize = 32; p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64; p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->major = capability() / 10;
  p->minor = capability() % 10; p->multiProcessorCount = 132; p->maxThreadsPerMultiProcessor = 2048;
  p->sharedMemPerMultiprocessor = 233472; p->regsPerMultiprocessor = 65536;
  p->sharedMemPerBlockOptin = 232448; p->l2CacheSize = 50 << 20; p->memoryBusWidth = 5120;
  p->maxBlocksPerMultiProcessor = 32; p->textureAlignment = 512; p->concurrentKernels = 1;
  p->unifiedAddressing = 1;
  return 0;
}
C int cudaFuncGetAttributes(cudaFuncAttributes* a) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = a->ptxVersion = 90;
  a->maxDynamicSharedSizeBytes = 49152;
  return 0;
}

// --- recording: what isn't allowed meanwhile fails, as on a GPU
static int recording = 0, recordings = 0;
static bool spoilt = false; // by what isn't allowed: its end fails, too
static int refuse() { spoilt = true; return cudaErrorStreamCaptureUnsupported; }
static void* recorded = nullptr;
C int cudaStreamBeginCapture(void* stream) { recording = ++recordings; recorded = stream; return 0; }
C int cudaStreamEndCapture(void*, void** graph) {
  recording = 0; recorded = nullptr; *graph = something;
  return std::exchange(spoilt, false) ? cudaErrorStreamCaptureInvalidated : 0;
}
C int cudaStreamIsCapturing(void* stream, int* status) { *status = recording && stream == recorded; return 0; }
C int cudaStreamGetCaptureInfo(void* stream, int* status, unsigned long long* id) {
  *status = recording && stream == recorded;
  if (id) *id = *status ? recording : 0;
  return 0;
}
C int cudaGraphLaunch() { note("graph"); return 0; }
static int waits(bool refused) {
  if (refused) return refuse();
  note("wait");
  return 0;
}
C int cudaDeviceSynchronize() { return waits(recording); }
C int cudaStreamSynchronize(void* stream) { return waits(recording && stream == recorded); }
C int cudaEventSynchronize() { return waits(recording); }

// --- memory: addresses of the device are the host's own, of pages that are used when written
static std::map<char*, size_t>& blocks() { static auto* all = new std::map<char*, size_t>; return *all; }
static bool on_device(const void* pointer) {
  std::lock_guard<std::recursive_mutex> held(lock);
  auto block = blocks().upper_bound((char*)pointer);
  if (block == blocks().begin()) return false;
  --block;
  return (char*)pointer < block->first + block->second;
}
C int cudaMalloc(void** out, size_t size) {
  const char* most = getenv("FAKE_MEMORY");
  size_t held = size;
  std::lock_guard<std::recursive_mutex> guard(lock);
  for (auto& block : blocks()) held += block.second;
  if (held > (most ? strtoull(most, nullptr, 10) : 80ull << 30)) return cudaErrorMemoryAllocation;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (pages == MAP_FAILED) return cudaErrorMemoryAllocation;
  *out = pages;
  blocks()[(char*)pages] = size;
  return 0;
}
C int cudaFree(void* pointer) {
  std::lock_guard<std::recursive_mutex> held(lock);
  auto block = blocks().find((char*)pointer);
  if (block == blocks().end()) return 0;
  munmap(pointer, block->second);
  blocks().erase(block);
  return 0;
}
C int cudaHostAlloc(void** out, size_t size) { *out = malloc(size); return 0; }
C int cudaFreeHost(void* pointer) { free(pointer); return 0; }
C int cudaMemGetInfo(size_t* free, size_t* all) { *free = 79ull << 30; *all = 80ull << 30; return 0; }
C int cudaPointerGetAttributes(cudaPointerAttributes* a, void* pointer) {
  memset(a, 0, sizeof *a);
  a->type = on_device(pointer) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  a->devicePointer = pointer;
  return 0;
}
static int copy(void* to, const void* from, size_t size, void* stream) {
  bool on = on_device(to), off = on_device(from);
  if (on && off) { note("D2D"); return 0; }  // of numbers that don't exist
  if (recording && stream == recorded) return refuse();
  note(on ? "H2D" : off ? "D2H" : "H2H");
  memcpy(to, from, size);
  return 0;
}
C int cudaMemcpyAsync(void* to, void* from, size_t size, int, void* stream) { return copy(to, from, size, stream); }
C int cudaMemcpy(void* to, void* from, size_t size) { return copy(to, from, size, recorded); }
C int cudaMemcpy2DAsync() { note("D2D"); return 0; }
C int cudaMemcpyToSymbol() { note("H2D"); return 0; }

// --- launches
#define LAUNCHES(name) C int name() { note("launch"); return 0; }
LAUNCHES(__cudaLaunchKernel) LAUNCHES(cudaLaunchKernel) LAUNCHES(cudaLaunchKernelExC)
LAUNCHES(cudaMemset) LAUNCHES(cudaMemsetAsync) LAUNCHES(cuLaunchKernel) LAUNCHES(cuLaunchKernelEx)
LAUNCHES(cuLaunchCooperativeKernel)
LAUNCHES(cublasSgemm_v2) LAUNCHES(cublasDgemm_v2) LAUNCHES(cublasGemmEx) LAUNCHES(cublasSgemv_v2)
LAUNCHES(cublasSgemmStridedBatched) LAUNCHES(cublasDgemmStridedBatched)
LAUNCHES(cublasGemmStridedBatchedEx) LAUNCHES(cublasLtMatmul)
static thread_local dim3 grid, block;
static thread_local size_t shared;
static thread_local void* launched_on;
C unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t bytes, void* stream) {
  grid = g; block = b; shared = bytes; launched_on = stream;
  return 0;
}
C int __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* bytes, void** stream) {
  *g = grid; *b = block; *bytes = shared; *stream = launched_on;
  return 0;
}

// --- cuBLAS: descriptors are the real library's, which need no GPU
struct Heuristic { unsigned long long algorithm[8]; size_t workspace; int state; float waves; int reserved[4]; };
C int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, Heuristic* found, int* count) {
  memset(found, 0, sizeof *found);
  *count = 1;
  return 0;
}
