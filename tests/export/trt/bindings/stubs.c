/* Stand-ins for the functions that TensorRT's Python bindings look up when they load. They create nothing: with them
   the bindings import on a machine without TensorRT, so that names and signatures can be looked at. One file makes
   all three libraries. */
#include <stddef.h>

#define CREATES_NOTHING(name) void *name(void *first, void *second, int version) \
  { (void)first; (void)second; (void)version; return NULL; }

CREATES_NOTHING(createInferBuilder_INTERNAL)
CREATES_NOTHING(createInferRefitter_INTERNAL)
CREATES_NOTHING(createInferRuntime_INTERNAL)
CREATES_NOTHING(createNvOnnxParser_INTERNAL)
CREATES_NOTHING(createNvOnnxParserRefitter_INTERNAL)
CREATES_NOTHING(getBuilderPluginRegistry)
CREATES_NOTHING(getPluginRegistry)

int getInferLibVersion(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
int initLibNvInferPlugins(void *logger, const char *name_space) { (void)logger; (void)name_space; return 1; }
