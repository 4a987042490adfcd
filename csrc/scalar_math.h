#ifndef TMP
#define TMP
static double fsm_log1p(double x){return log1p(x);}
static double fsm_log(double x){return log(x);}
static double fsm_exp(double x){return exp(x);}
#endif
