# The Node addon, `qwen3.node`. cmake-js passes CMAKE_JS_INC; plain CMake (`npx qwen3 build`, an IDE) finds the headers
# through the two npm packages, which are ordinary dependencies.
if(NOT CMAKE_JS_INC)
  execute_process(
    COMMAND node -p "[require('node-api-headers').include_dir, require('node-addon-api').include_dir].join(';')"
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
    OUTPUT_VARIABLE CMAKE_JS_INC OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE QWEN3_HEADERS_RESULT)
  if(NOT QWEN3_HEADERS_RESULT EQUAL 0)
    message(FATAL_ERROR "node-api-headers and node-addon-api were not found: run `npm install` first, or pass -DCMAKE_JS_INC=...")
  endif()
endif()

file(GLOB QWEN3_NODE_SOURCES CONFIGURE_DEPENDS native/node/*.cc)
list(REMOVE_ITEM QWEN3_NODE_SOURCES ${CMAKE_SOURCE_DIR}/native/node/glibc_compat.cc)
add_library(qwen3_node MODULE ${QWEN3_NODE_SOURCES} ${CMAKE_JS_SRC})
set_target_properties(qwen3_node PROPERTIES PREFIX "" SUFFIX ".node" OUTPUT_NAME "qwen3")
target_include_directories(qwen3_node PRIVATE native)
target_include_directories(qwen3_node SYSTEM PRIVATE ${CMAKE_JS_INC})
target_link_libraries(qwen3_node PRIVATE qwen3_engine ${CMAKE_JS_LIB})
target_compile_definitions(qwen3_node PRIVATE
  NAPI_VERSION=8
  # Every C++ exception becomes a JavaScript one; plain NAPI_CPP_EXCEPTIONS lets bad_alloc abort the process.
  NODE_ADDON_API_CPP_EXCEPTIONS_ALL
  # Electron forbids external buffers; results are copied into V8's own memory.
  NODE_API_NO_EXTERNAL_BUFFERS_ALLOWED
  # A worker that is being terminated can no longer throw into JavaScript: drop the exception instead of aborting.
  NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)

if(APPLE)
  target_link_options(qwen3_node PRIVATE -Wl,-undefined,dynamic_lookup)
elseif(UNIX)
  target_link_options(qwen3_node PRIVATE
    -static-libstdc++
    -Wl,--exclude-libs,ALL
    -Wl,--version-script=${CMAKE_SOURCE_DIR}/native/node/exports.map
    # When the only worker that uses the addon exits, Node closes the library; the pool threads of the process-wide
    # runtime must not lose their code.
    -Wl,-z,nodelete
    -Wl,-z,relro,-z,now)
  set_target_properties(qwen3_node PROPERTIES LINK_DEPENDS ${CMAKE_SOURCE_DIR}/native/node/exports.map)
  # glibc_compat.cc binds these to versions that glibc 2.28 has; scripts/check-glibc.mjs proves that none is missing.
  # Not under sanitizers, which intercept them, and not on musl or other processors.
  include(CheckCXXSymbolExists)
  check_cxx_symbol_exists(__GLIBC__ features.h QWEN3_HAS_GLIBC)
  if(QWEN3_HAS_GLIBC AND NOT QWEN3_SANITIZE AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|aarch64)$")
    set(QWEN3_GLIBC_WRAPPED
      pthread_create pthread_join pthread_detach pthread_once pthread_sigmask pthread_setname_np
      pthread_getaffinity_np pthread_setaffinity_np pthread_key_create pthread_key_delete pthread_getspecific
      pthread_setspecific pthread_mutex_trylock pthread_rwlock_rdlock pthread_rwlock_wrlock pthread_rwlock_unlock
      pthread_cond_clockwait sem_init sem_post sem_wait sem_destroy dlopen dlsym dlclose dlerror dladdr
      exp exp2 log log2 pow expf logf powf stat stat64 lstat lstat64 fstat fstat64 __libc_single_threaded arc4random)
    target_sources(qwen3_node PRIVATE native/node/glibc_compat.cc)
    foreach(symbol ${QWEN3_GLIBC_WRAPPED})
      target_link_options(qwen3_node PRIVATE -Wl,--wrap=${symbol})
    endforeach()
  endif()
endif()
